// Package crash runs the real worker in processes of its own and breaks them,
// and everything around them, at random: three workers with real stores and
// caches, askers that never stop, token endpoints over TCP. It has tests only.
//
// # A run
//
// A run has a seed. Two drivers draw faults from shuffled decks, one for the
// processes (kill -9 at each named point of the core and at random moments,
// SIGSTOP through the heartbeat's deadline, a wall clock that is off), one for
// what lies between them (answers that are lost, cut or withheld, NATS, Redis
// or MongoDB out of reach). When all faults have ended the run goes on until
// the accounts are well, and then holds what the endpoints saw, what the
// processes logged, what lay in their spools when they died, and what the
// askers got against the promises.
//
// # Whose fault is a lost account
//
// An answer that never reached a process is lost, and at an endpoint that
// takes no spent refresh token again the account is lost with it. So for every
// exchange that was granted the front, which the workers take for the
// endpoints, knows what became of the answer: withheld or cut on the way, or
// delivered. And whether a process took what was delivered from its socket:
// the kernel ends the connection of a process that was killed with FIN if it
// had, and with RST if it had not. Only these, and the instant between reading
// and spooling, excuse a lost account; the run's table names each.
//
// This is why there is a proxy of its own here: one that works on bytes and
// time alone can cut and delay, but can't tell which answer a process has had.
package crash
