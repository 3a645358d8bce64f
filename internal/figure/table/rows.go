package main

// row is one line of the table: one column of one benchmark.
type row struct {
	pkg    string // folder, from the top of the repository
	bench  string // as go test prints it, without "Benchmark" and the number of processors
	column string // as in figure.Column; "" where the benchmark has one without a name
	title  string // what is measured; names the row in the table, so no two are alike
	rival  string
}

const (
	benches = "internal/figure/bench"
	echo    = "a bare NATS echo"
)

// rows is the table. A benchmark that does not exist (yet) is left out with a
// note.
var rows = []row{
	{benches, "HotLookup/64", "throughput", "look-ups from a worker's memory, 64 in flight", echo},
	{benches, "HotLookup/64", "p99", "look-ups from memory, 64 in flight, p99 of the latency", echo},
	{benches, "HotLookup/64", "cpu", "look-ups from memory, 64 in flight, processor time of a request with its server and asker", echo},
	{benches, "HotLookup/256", "throughput", "look-ups from a worker's memory, 256 in flight", echo},
	{benches, "HotLookup/256", "p99", "look-ups from memory, 256 in flight, p99 of the latency", echo},
	{benches, "HotLookup/64/min_ttl", "throughput", "look-ups from memory with `min_ttl` in the request, 64 in flight", echo},
	{benches, "HotLookup/64/min_ttl", "p99", "look-ups from memory with `min_ttl`, 64 in flight, p99", echo},
	{benches, "HotLookup/256/min_ttl", "throughput", "look-ups from memory with `min_ttl` in the request, 256 in flight", echo},
	{benches, "HotLookup/256/min_ttl", "p99", "look-ups from memory with `min_ttl`, 256 in flight, p99", echo},
	{benches, "HotLookup/64/known_version", "throughput", "look-ups from memory that know the version (a short reply), 64 in flight", echo},
	{benches, "HotLookup/64/known_version", "p99", "look-ups from memory that know the version, 64 in flight, p99", echo},
	{benches, "HotLookup/256/known_version", "throughput", "look-ups from memory that know the version (a short reply), 256 in flight", echo},
	{benches, "HotLookup/256/known_version", "p99", "look-ups from memory that know the version, 256 in flight, p99", echo},
	{benches, "Accounting", "throughput", "look-ups from memory, 64 in flight, each request accounted for twice", "once, as a worker does"},
	{benches, "Accounting", "cpu", "look-ups from memory, each request accounted for twice, processor time of a request", "once, as a worker does"},
	{benches, "Scaling/1", "", "look-ups from memory, one worker", echo},
	{benches, "Scaling/2", "", "look-ups from memory, two workers", "two echoes"},
	{benches, "Scaling/4", "", "look-ups from memory, four workers", "four echoes"},
	{benches, "WarmLookup/nats", "p50", "look-up in the shared cache, JetStream, p50 of 16 in flight", "an echo that gets the entry"},
	{benches, "WarmLookup/nats", "p99", "look-up in the shared cache, JetStream, p99", "an echo that gets the entry"},
	{benches, "WarmLookup/nats", "cpu", "look-up in the shared cache, JetStream, processor time with server and asker", "an echo that gets the entry"},
	{benches, "WarmLookup/redis", "p50", "look-up in the shared cache, Redis, p50 of 16 in flight", "an echo with an HMGET"},
	{benches, "WarmLookup/redis", "p99", "look-up in the shared cache, Redis, p99", "an echo with an HMGET"},
	{benches, "WarmLookup/redis", "cpu", "look-up in the shared cache, Redis, processor time with NATS and asker, without Redis", "an echo with an HMGET"},
	{benches, "ColdLookup/nats", "p50", "look-up in the store, JetStream, p50 of 16 in flight", "an echo that gets the document from the leader"},
	{benches, "ColdLookup/nats", "p99", "look-up in the store, JetStream, p99", "an echo that gets the document from the leader"},
	{benches, "ColdLookup/nats", "cpu", "look-up in the store, JetStream, processor time with server and asker", "an echo that gets the document from the leader"},
	{benches, "ColdLookup/mongo", "p50", "look-up in the store, MongoDB's stand-in, p50 of 16 in flight", "an echo with a find by `_id`"},
	{benches, "ColdLookup/mongo", "p99", "look-up in the store, MongoDB's stand-in, p99", "an echo with a find by `_id`"},
	{benches, "ColdLookup/mongo", "cpu", "look-up in the store, MongoDB's stand-in, processor time with NATS and asker, without the stand-in", "an echo with a find by `_id`"},
	{benches, "Storm/exchange=0s", "first", "10,000 at once for an expired account: first reply", "a bare exchange, a bare write, 5 ms"},
	{benches, "Storm/exchange=0s", "last", "10,000 at once for an expired account: last reply", "a bare exchange, a bare write, twice 10,000 echoes"},
	{benches, "Storm/exchange=100ms", "first", "10,000 at once for an expired account, an exchange of 100 ms: first reply", "a bare exchange, a bare write, 5 ms"},
	{benches, "Storm/exchange=100ms", "last", "10,000 at once for an expired account, an exchange of 100 ms: last reply", "a bare exchange, a bare write, twice 10,000 echoes"},
	{benches, "Refresh/r1", "", "refreshes by one worker, an endpoint that answers at once; JetStream, one server", "their eight writes alone"},
	{benches, "Refresh/r3", "", "refreshes, JetStream, three servers with a replica each", "their eight writes alone"},
	{benches, "Refresh/mongo", "", "refreshes, MongoDB's stand-in, Redis and NATS", "their eight writes alone"},
	{benches, "DuePass", "", "10,000 due accounts, an endpoint of 300 ms, 64 at once", "what that takes by arithmetic"},
	{"client", "Hit", "", "`Token` of the client library from memory, by all cores", "a bare `sync.Map`"},
	{"ledger", "L1Memory", "", "a worker's memory for an account that it caches, beside its token", "1 KiB"},
	{"ledger", "L1Use", "hits", "requests that find their account in memory, places for a tenth of the accounts", "a plain LRU of that size"},
	{"ledger", "L1Use", "found", "look-ups in a worker's own cache by all cores, places for a tenth of the accounts", "a plain LRU of that size"},
	{benches, "Hostile/UnknownKeys", "p99", "a gateway's p99 while another asks for a million unknown keys, 64 in flight", "the other asks an echo that reads cache and store"},
	{benches, "Hostile/UnknownKeys", "quiet", "a gateway's p99 while another asks for unknown keys", "no other"},
	{benches, "Hostile/BigBodies", "p99", "a gateway's p99 while another sends wrong requests of 1 MiB, 4 in flight", "the other asks an echo"},
	{benches, "Hostile/BigBodies", "quiet", "a gateway's p99 while another sends 1 MiB", "no other"},
	{benches, "Hostile/NeverReads", "p99", "a gateway's p99 while another asks 50,000 times a second and never reads", "the other asks an echo"},
	{benches, "Hostile/NeverReads", "quiet", "a gateway's p99 while another never reads", "no other"},
	{benches, "Hostile/OneAccount", "p99", "a gateway's p99 while another asks for one account, 256 in flight", "the other asks an echo"},
	{benches, "Hostile/OneAccount", "quiet", "a gateway's p99 while another asks for one account", "no other"},
	{"natskv", "Due", "", "look for what is due, 100 of 1,000,000 accounts, JetStream store", "the same, 100 of 1,000"},
	{"natskv", "IndexMemory", "", "memory for an account that is not cached", "a map of its due time"},
	{"natskv", "Start", "", "start with 1,000,000 accounts until the first answer", "bare JetStream recovery of the same files"},
	{"cmd/tokenctl", "Import", "", "accounts import", "raw creates of the same documents"},
}
