// Package rediskv keeps the shared cache and the leases in Redis.
//
// Both may be lost at any time: a Redis that is restarted empty, evicts keys
// or fails over to a replica that lags costs look-ups in the store and
// refreshes that notice each other late, and nothing else.
//
// # Servers
//
// One URL names one of three kinds of servers, as go-redis reads them:
//
//	redis://[user:password@]host[:port][/db]             one server
//	redis://[user:password@]host:port?addr=host:port…    a Cluster: some of its nodes
//	redis://[user:password@]host:port?master_name=name   Sentinels, and the master that they watch
//
// rediss:// is TLS. It trusts the system's certificates, or those that
// SSL_CERT_FILE names; each certificate must be for the URL's first host. With
// Sentinels, user and password before the host are those of the Sentinels; the
// server's own are the options username and password, and addr names more
// Sentinels. Of a Cluster with one address that address is named twice.
//
// Redis 6.0 is the oldest that will do. A user needs +@read +@write +@scripting
// +@connection on ~<prefix>:*, in a Cluster also +cluster|slots.
//
// # Calls
//
// Every step that compares and writes is one Lua script on one key. Keys are
// "<prefix>:cache:{<account>}" (a hash) and "<prefix>:lease:{<account>}" (a
// string), each with a time to live. All keys of an account are in one slot of
// a Cluster. Only primaries are asked.
//
// No call is repeated once it may have been carried out, by nobody: a second
// release finds that the lease is gone, and a second put that the entry is
// there, and each would call that an answer. So a call whose outcome is unknown is
// an error. What is sent again is what a server has answered and not done: that
// it doesn't know the script, or that the key is at another node.
//
// A call takes the client's timeout at most, or what its context allows.
package rediskv
