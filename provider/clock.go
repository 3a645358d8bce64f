package provider

import "time"

// Clock is the time that the core goes by. The zero Config uses the system's.
type Clock interface {
	// Now is the wall clock. It may jump.
	Now() time.Time
	// Elapsed is a clock that only rises, also while the machine is suspended
	// (CLOCK_BOOTTIME), from an arbitrary start.
	Elapsed() time.Duration
	// After works as time.After.
	After(d time.Duration) <-chan time.Time
}

type systemClock struct{}

func (systemClock) Now() time.Time                         { return time.Now() }
func (systemClock) Elapsed() time.Duration                 { return elapsed() }
func (systemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }
