// Package explore drives the real core through schedules that production
// meets once in a million: every interaction of every worker with the world
// outside it (store, cache, lease, journal, endpoint, bump, timer) is a point
// at which a deterministic scheduler decides what happens next. It can let
// another worker go first, fail the operation before or after it was done,
// crash a worker, freeze it, let its lease expire, lose a request or an
// answer, or end a request's context.
//
// A schedule is a scenario and a list of deviations from the plain course of
// things, in which the oldest operation goes first and nothing fails. It is
// written "scenario/step:choice,step:choice" and replays from that line. After
// each schedule the world is healed, fresh workers are started, and the
// invariants are checked.
//
// Goroutines run in a testing/synctest bubble: the scheduler knows when all of
// them wait, and only then decides.
package explore
