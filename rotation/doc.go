// Package rotation is the state machine of a refresh: what to do next about an
// account, and what an outcome does to its document. It is pure functions over
// what was read; it reads no clock, no store and no network. Package refresh
// carries out what is decided here, and docs/rotation.md follows one rotation
// from beginning to end.
//
// # States
//
// A rotation exchanges the refresh token of one version. Its record is a field
// of the account's document, written by compare-and-set: that is what makes it
// single.
//
//	idle ──begin──▶ begun ──first byte──▶ sent ──answer──▶ answered ──commit──▶ committed ──announce──▶ idle
//	                  │                    │                   │
//	                  │                    └─no answer─▶ in doubt ──take over──▶ begun
//	                  └─nothing sent─▶ idle                └─store down─▶ journaled ──replay──▶ committed
//
// [Decide] is asked before anything is sent: begin, take over, wait, leave in
// doubt, or refuse. [Settle] is asked when the outcome is known, by whoever
// knows it, any number of times: commit, fail, reject, or nothing, because it
// is settled or history. [Login] ends whatever runs when somebody logs in.
//
// A begun rotation counts as perhaps sent. No clock of another machine decides
// anything: a worker is gone when its heartbeat has not changed for long
// enough on our own clock ([Sighting]).
package rotation
