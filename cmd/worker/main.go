// Command worker keeps OAuth accounts alive: it answers gateways with living
// access tokens over NATS and refreshes each account exactly once, however
// many workers there are.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
)

func main() { os.Exit(osApp().run(context.Background(), os.Args)) }

// version is the module's version, or the commit it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
}

// semver is the version in the form that NATS micro wants.
func semver() string {
	if v, ok := strings.CutPrefix(version(), "v"); ok {
		return v
	}
	return "0.0.0"
}

// notifySignals returns a context that the first SIGINT or SIGTERM ends. The
// second signal ends the process at once, whatever it is doing: nothing is
// lost by that which a kill -9 would not lose too.
func notifySignals(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(parent)
	ch := make(chan os.Signal, 2)
	done, stopped := make(chan struct{}), make(chan struct{})
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM)
	go func() {
		defer close(stopped)
		for n := 0; ; n++ {
			select {
			case <-ch:
				if n > 0 {
					os.Exit(exitFailed)
				}
				cancel()
			case <-done:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(ch)
		close(done)
		<-stopped
		cancel()
	}
}
