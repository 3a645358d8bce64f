//go:build tokenbus_crash

package failpoint

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

var crashes atomic.Int64

// At kills the process, as kill -9 does, when it comes to the point that
// TOKENBUS_CRASH_AT names: "answered", or "answered:3" for the third time.
func At(point string) {
	name, nth, _ := strings.Cut(os.Getenv("TOKENBUS_CRASH_AT"), ":")
	if name != point {
		return
	}
	n, err := strconv.ParseInt(nth, 10, 64)
	if err != nil {
		n = 1
	}
	if crashes.Add(1) == n {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}
