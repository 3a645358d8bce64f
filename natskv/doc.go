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
// # Durability
//
// A write is acknowledged by a majority of the bucket's replicas. When each of
// them has it on disk is the server's setting (sync_interval).
//
// # Outcomes
//
// A reply that says "wrong last sequence" is certain: nothing was written.
// After a timeout, or a connection that broke, the write may have been carried
// out or may still be on its way; the error is returned and nothing is
// repeated.
package natskv
