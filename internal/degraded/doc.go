// Package degraded holds what a gateway sees while one dependency is out of
// order against the table of degraded modes: five dependencies, each of which
// fails in four ways, and three things that a gateway may want meanwhile. It
// has tests only: TestP7Degraded<dependency>/<failure>/<column>.
//
// # A failure
//
// The servers are real ones and stand behind toxiproxy; the workers are
// processes of their own. "refused": connections are cut, new ones refused.
// "black hole": they stand, and nothing passes. "slow": each answer takes two
// seconds longer. "flapping": refused and working in turn. A worker is killed,
// stopped, stopped most of the time, or killed and started again and again.
//
// # A column
//
// One fleet plays all three columns of a failure at once. Tokens in hand are
// asked for from before the failure to after its end, without a break. Refreshes
// and accounts that no cache knows are asked for while it lasts, and again once
// it is over. What a fleet may do depends on the failure: a slow store may be
// used or not, but no refresh token may be sent against the rules and no
// request may hang.
package degraded
