// Package provider is the core of tokenbus: it looks tokens up, refreshes each
// account exactly once however many ask, and saves what the token endpoint
// answers before it tells anyone.
//
// # Lookup
//
// [Provider.Token] asks the process's own cache (L1), then the shared cache,
// then the store. Whichever has a token that lives long enough is the answer.
// A token that comes near its end is served while a refresh runs beside the
// request; one that is too near its end makes requests wait, all on the same
// refresh.
//
// # Rotation
//
// A rotation exchanges the refresh token of one version. Its record in the
// store, written by compare-and-set, is what makes it single:
//
//	idle ──begin──▶ begun ──first byte──▶ sent ──answer──▶ answered ──commit──▶ committed ──announce──▶ idle
//	                  │                    │                   │
//	                  │                    └─no answer─▶ in doubt ──take over──▶ begun
//	                  └─nothing sent─▶ idle                └─store down─▶ journaled ──replay──▶ committed
//
// A begun rotation counts as perhaps sent. The answer of the endpoint goes
// into the spool before it is even parsed; the new credentials are in the
// store before anybody hears of them; and the announcement is repeated until
// cache and stream have it. What to do next is decided by pure functions
// ([Decide] for a rotation, the look-up's judgement for a request) over what was
// read; everything else in this package is carrying it out.
//
// # What it does not trust
//
// No lock: a lease only keeps the herd away. No clock of another machine: a
// worker is gone when its heartbeat has not changed for long enough on our
// own clock. No request's context: an exchange, once begun, runs to its end.
// No write whose outcome is unknown: it is read back.
package provider
