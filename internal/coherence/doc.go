// Package coherence holds what clients and workers do with versions, while
// links fail under them, against the rules of docs/coherence.md. It has tests
// only. Real clients ask real workers over a real NATS server; what each of them
// hears, asks and hands out is recorded, and judged afterwards.
//
// # What is recorded, and when
//
// Moments are those of one monotonic clock. "Before" below is between two
// stamps, of which the first is taken after its event and the second before its
// own: so the events were in that order too, however the machine stalls. A rule
// that can't tell says nothing; none depends on how long anything takes, but for
// the last two.
//
//   - A look-up: the stamps before and after the call of Token, what it gave,
//     and whether that came from memory.
//   - A bump that was heard. The client's connection is tapped: behind each bump
//     that the client's library reads, the tap puts one more message to the same
//     subscription, which is no bump and has a number. The client's callback
//     takes messages one by one and logs the one that it can't read: by then it
//     has done what it does with the bump before it. The stamp is taken there.
//   - A question: when the client writes a request to its connection, with its
//     min_version. And a last bump that a worker gives to one that catches up.
//   - A cut: when the client's connection reads or writes no more, or is closed.
//     A cut that was noticed: when the client calls its hook Missed, which it does
//     once it takes care.
//   - A worker's answer: the stamps before and after the call that makes it, what
//     was asked, and the version. A bump that a worker has heard: after
//     ObserveBump returned. A cut that it has noticed: after Resync returned.
//   - A bump that was sent: when a connection of the test's own has heard it.
//
// # What is checked
//
//   - floor: no worker's answer is below the min_version asked for, or at or
//     below rejected_version.
//   - fall: of two look-ups by one client, one after the other, the second gives
//     no older version.
//   - bump: a look-up that began after a bump was heard gives no older version;
//     and no client gives a bump up as wrong, as all that are sent are right.
//   - cut: connected again, or after bumps were dropped, a token is given from
//     memory only if the account was asked about, or found in the bump stream,
//     since the cut. (While cut off, and until the return is noticed, it may be
//     given without.)
//   - worker bump: an answer that a worker begins after it heard a bump is no
//     older.
//   - worker cut: an answer that a worker begins after it noticed a cut is no
//     older than any bump sent before.
//   - token: two look-ups that give the same version of an account give the same
//     token; and it hasn't ended when the look-up begins.
//   - min_version: a question carries the newest version that was given by the
//     longest time before that a question may take. One that goes out with a new
//     connection counts as asked when the last one ended.
//   - newest: once all links are healed, each client comes to the newest version
//     within max age and some patience.
//
// # How
//
// TestP4NoPeerServesAStaleToken is many clients, many accounts that rotate all
// the time, and links that are cut, flap, are slow or swallow everything at
// random. TestP4Scenario brings about what each rule is about, one by one.
// TestMutations breaks the rules in the sources, one by one, and expects the
// scenarios to find each. TestRulesCanFail is about the judge alone.
//
//	make coherence COHERENCE=10m COHERENCE_SEED=7
package coherence
