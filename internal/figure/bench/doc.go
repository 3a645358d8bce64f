// Package bench has the benchmarks of whole fleets: real workers on a real NATS
// server over loopback TCP, with the stores that production has, against the
// bare pieces that do the same work. It has tests alone.
package bench
