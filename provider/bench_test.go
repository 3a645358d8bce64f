package provider_test

import (
	"sync"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
)

// BenchmarkCached is the fast path alone: what a worker adds to a bare echo.
func BenchmarkCached(b *testing.B) {
	f := newFleet(b, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", time.Hour)
	f.token(p, "x", events.TokenRequest{})
	k, req := key("x"), events.TokenRequest{Timeout: events.DefaultTimeout}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := p.Cached(k, req); !ok {
			b.StopTimer() // due for its check against the shared version
			f.token(p, "x", req)
			b.StartTimer()
		}
	}
}

// BenchmarkSyncMap is its rival: a map look-up with a look at the clock.
func BenchmarkSyncMap(b *testing.B) {
	var m sync.Map
	k := key("x")
	m.Store(k, account.NewSecret("token"))
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := m.Load(k); !ok || time.Now().IsZero() {
			b.Fatal("lost")
		}
	}
}
