// Package clock is the time that everything goes by that decides about a
// token: the wall clock, which may jump, and one that only rises, also while
// the machine is suspended.
package clock

import "time"

// Clock tells the time. Implementations are safe for concurrent use.
type Clock interface {
	// Now is the wall clock. It may jump.
	Now() time.Time
	// Elapsed is a clock that only rises, also while the machine is suspended
	// (CLOCK_BOOTTIME), from an arbitrary start.
	Elapsed() time.Duration
	// After works as time.After.
	After(d time.Duration) <-chan time.Time
}

// System is the machine's clock.
type System struct{}

// Now implements [Clock].
func (System) Now() time.Time { return time.Now() }

// Elapsed implements [Clock].
func (System) Elapsed() time.Duration { return elapsed() }

// After implements [Clock].
func (System) After(d time.Duration) <-chan time.Time { return time.After(d) }
