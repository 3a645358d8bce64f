//go:build !(tokenbus_crash && linux)

package main

import "github.com/tokenbus/tokenbus/clock"

// testClock is the system's clock, except in the crash suite's build.
func testClock() (clock.Clock, error) { return nil, nil }
