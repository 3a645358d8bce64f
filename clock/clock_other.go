//go:build !linux

package clock

import "time"

var start = time.Now()

// elapsed is the monotonic clock; whether it counts a suspend depends on the
// system.
func elapsed() time.Duration { return time.Since(start) }
