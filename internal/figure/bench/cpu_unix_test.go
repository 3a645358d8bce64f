//go:build unix

package bench

import (
	"syscall"
	"time"
)

// cpuUsed is the processor time that this process has had, its system calls
// included.
func cpuUsed() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // its arguments are right
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
