// Package natskv keeps accounts, the shared cache, leases and the journal in
// JetStream KV buckets.
//
// # Reads
//
// A replicated bucket may answer reads from a follower that lags. So whatever
// rests on a read asks the stream's leader, whether or not the bucket allows
// direct reads; only lookups in the cache take the nearest replica. Even the
// leader's answer is no quorum read, for a leader that has lost its followers
// may not know it yet. Therefore every decision is made by the write: each
// one carries the sequence of the message that it replaces, and JetStream
// refuses it if another write came first.
//
// Read by read:
//
//   - [Store.Update], [Store.Create], [Cache.Put], [Leases.Acquire]: a
//     compare-and-set follows. What they report without one (a conflict, a
//     higher rev, a held lease) was so at some time, and makes callers look
//     again or wait. Update and Put write without a read where this process has
//     just seen the message ([streams.Recent]); if that is refused they read.
//   - [Store.Get], [Leases.Read]: the leader's answer. For the seconds until a
//     deposed leader knows, it may be old; whoever acts on it writes, by
//     compare-and-set. It is what a majority read of MongoDB gives as well.
//   - [Values.CheckValue]: a value never changes, so an old answer can only be
//     that there is none, and then the write decides.
//   - [Journal.Records] of one account: nothing is written afterwards, and an
//     answer that is too old would send a refresh token a second time. So a
//     write comes first, and the answer must be as new as that.
//   - [Cache.Get], the index behind [Store.Due], [Store.Pending] and
//     [Store.List]: may lag, and nothing is decided by it.
//
// # Replicas and settings
//
// Buckets that are missing are made with three replicas, or one where the
// servers are fewer. What exists is never changed: see [Config].
//
// # Durability
//
// A write is acknowledged by a majority of the bucket's replicas. When each of
// them has it on disk is the server's setting (sync_interval).
//
// # Outcomes
//
// A reply that says "wrong last sequence" is certain: nothing was written. So
// is one that says that there is no room. After a timeout, or a connection that
// broke, the write may have been carried out or may still be on its way; the
// error is returned and nothing is repeated.
package natskv
