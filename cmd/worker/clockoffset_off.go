//go:build !(tokenbus_crash && linux)

package main

import "github.com/tokenbus/tokenbus/provider"

// testClock is the system's clock, except in the crash suite's build.
func testClock() (provider.Clock, error) { return nil, nil }
