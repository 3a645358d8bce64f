//go:build tokenbus_crash && linux

package main

import (
	"fmt"
	"os"
	"time"

	"github.com/tokenbus/tokenbus/clock"
	"golang.org/x/sys/unix"
)

// testClock is a clock whose wall time is off by TOKENBUS_CLOCK_OFFSET; nil,
// the system's, where that isn't set.
func testClock() (clock.Clock, error) {
	v := os.Getenv("TOKENBUS_CLOCK_OFFSET")
	if v == "" {
		return nil, nil
	}
	offset, err := time.ParseDuration(v)
	if err != nil {
		return nil, &usageError{fmt.Errorf("TOKENBUS_CLOCK_OFFSET: %w", err)}
	}
	return wrongClock{offset}, nil
}

type wrongClock struct{ offset time.Duration }

func (c wrongClock) Now() time.Time                         { return time.Now().Add(c.offset) }
func (c wrongClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

func (c wrongClock) Elapsed() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("read CLOCK_BOOTTIME: " + err.Error())
	}
	return time.Duration(ts.Nano())
}
