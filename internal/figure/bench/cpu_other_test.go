//go:build !unix

package bench

import "time"

var started = time.Now()

// cpuUsed is the time that has passed, where the system does not tell more.
func cpuUsed() time.Duration { return time.Since(started) }
