// Package bus connects a worker to NATS: the connection, the embedded server,
// the streams, the service that answers token requests, the service for
// operators, and the broadcasts between workers.
//
// # Services
//
// Requests and admin verbs are answered by two services that follow the NATS
// micro protocol, so that `nats micro ls|info|stats` finds them. They are not
// made with [github.com/nats-io/nats.go/micro]: there a handler that answers
// after it returned can't report an error without a race, its time and errors
// aren't counted, and stopping doesn't wait for it. Here a token that is at
// hand is answered on the subscription's goroutine, for the price of an echo;
// what has to wait gets a goroutine of its own, up to a limit.
//
// An answer goes where the asker says, with the worker's permissions. So that
// nobody can make a worker write into a stream or call the JetStream API,
// reply subjects that begin with $ or with the bus's own prefix are ignored.
// JetStream has no such rule, and may do everything: so the roles below the
// worker's reach nothing that it answers, and workers read the last bumps for
// them, on a connection of their own.
//
// # Roles
//
// The embedded server knows three: [RoleWorker], [RoleOperator] and
// [RoleClient]. Each has an inbox prefix of its own ([InboxPrefix]), and none
// may subscribe to another's, because token replies travel there.
//
// # Stop
//
// [Worker.Drain] leaves the queue groups and answers what was taken. The
// broadcasts go on meanwhile, since refreshes that still run wait for them and
// make them; [Worker.Close] ends those too.
package bus
