package provider_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
)

// What a worker has told itself costs it nothing to hear; another looks.
func TestOwnEventIsNoNews(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p, other := f.worker(), f.worker() // w1, w2
	f.login(p, "x", time.Hour)
	eventually(t, "the login is announced", func() bool { return !f.doc("x").AnnouncePending })
	var reads atomic.Int64
	f.store.Fault.Set(func(context.Context, string, account.Key) (bool, error) { reads.Add(1); return true, nil })
	// A version that no bump has named: who looks, reads the document.
	own := events.Refreshed{Key: key("x"), Version: 2, Reason: events.ReasonExternal, By: "w1", At: f.clock.Now()}
	if err := p.ObserveRefreshed(t.Context(), own); err != nil || reads.Load() != 0 {
		t.Errorf("%d reads, %v", reads.Load(), err)
	}
	if err := other.ObserveRefreshed(t.Context(), own); err != nil || reads.Load() != 1 {
		t.Errorf("another worker: %d reads, %v", reads.Load(), err)
	}
}
