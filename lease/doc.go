// Package lease hands out leases: short exclusive rights, over any backend
// that can compare and set.
//
// A lease keeps the herd away from an account and nothing more; correctness
// never rests on it. Still it is timed with care: a holder trusts its lease
// only until the start of the last attempt that the backend acknowledged, plus
// the TTL, minus a margin, on its own monotonic clock.
package lease
