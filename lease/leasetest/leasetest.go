// Package leasetest is the conformance suite of lease.Backend: what the
// contract promises, tried on the real thing by every adapter, alone and under
// a lease.Locker.
package leasetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/lease"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/refresh"
)

// contenders is how many goroutines fight for one lease.
const contenders = 50

// Run tries the backend that newBackend returns. Each call of newBackend must
// return an empty one, shut down by t.Cleanup, with a TTL of about a second:
// long enough for a few calls, short enough for tests that wait for its end.
// The backend may be wrapped.
func Run(t *testing.T, newBackend func(t *testing.T) lease.Backend) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, lease.Backend)
	}{
		{"AcquireAndRelease", testAcquireAndRelease},
		{"OneWinner", testOneWinner},
		{"OneWinnerAfterRelease", testOneWinnerAfterRelease},
		{"OneWinnerAfterExpiry", testOneWinnerAfterExpiry},
		{"SameOwnerAgain", testSameOwnerAgain},
		{"RenewKeeps", testRenewKeeps},
		{"ExpiryFrees", testExpiryFrees},
		{"ExpiryFreesAfterRenewal", testExpiryFreesAfterRenewal},
		{"LostLease", testLostLease},
		{"NamesAreIndependent", testNames},
		{"CancelledContext", testCancelledContext},
		{"LockerLostReplies", testLockerLostReplies},
		{"LockerOneHolderAtATime", testLockerOneHolderAtATime},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t, newBackend(t))
		})
	}
}

const name = "openai.a"

func testAcquireAndRelease(t *testing.T, b lease.Backend) {
	if b.TTL() <= 0 {
		t.Fatalf("TTL: got %v", b.TTL())
	}
	wantRead(t, b, name, "")
	for i := range 5 {
		owner := fmt.Sprint("owner-", i)
		tok := acquire(t, b, name, owner)
		wantRead(t, b, name, owner)
		wantHeld(t, b, name, "other")
		wantRead(t, b, name, owner)
		must(t, b.Release(t.Context(), name, tok))
		wantRead(t, b, name, "")
		wantErr(t, "Release once more", b.Release(t.Context(), name, tok), lease.ErrLost)
		_, err := b.Renew(t.Context(), name, tok)
		wantErr(t, "Renew after Release", err, lease.ErrLost)
		wantRead(t, b, name, "")
	}
}

func testOneWinner(t *testing.T, b lease.Backend) { contend(t, b, "first") }

func testOneWinnerAfterRelease(t *testing.T, b lease.Backend) {
	for i := range 3 {
		tok := contend(t, b, fmt.Sprint("round", i))
		must(t, b.Release(t.Context(), name, tok))
	}
}

func testOneWinnerAfterExpiry(t *testing.T, b lease.Backend) {
	acquire(t, b, name, "crashed")
	awaitEnd(t, b, name)
	contend(t, b, "next")
}

// contend lets many owners take the lease at once and returns the winner's
// token.
func contend(t *testing.T, b lease.Backend, round string) lease.Token {
	t.Helper()
	var wg sync.WaitGroup
	var wins atomic.Int64
	var won atomic.Pointer[lease.Token]
	start := make(chan struct{})
	for i := range contenders {
		wg.Go(func() {
			<-start
			tok, err := b.Acquire(t.Context(), name, fmt.Sprint(round, "-", i))
			switch {
			case err == nil:
				wins.Add(1)
				won.Store(&tok)
			case !errors.Is(err, refresh.ErrHeld):
				t.Errorf("contender %d: got %v, want %q", i, err, refresh.ErrHeld)
			}
		})
	}
	close(start)
	wg.Wait()
	if wins.Load() != 1 {
		t.Fatalf("%d of %d contenders have the lease, want one", wins.Load(), contenders)
	}
	wantRead(t, b, name, won.Load().Owner)
	return *won.Load()
}

func testSameOwnerAgain(t *testing.T, b lease.Backend) {
	tok := acquire(t, b, name, "me")
	again := acquire(t, b, name, "me")
	if again != tok {
		t.Errorf("Acquire by the same owner: got token %+v, want %+v", again, tok)
	}
	must(t, b.Release(t.Context(), name, again))
	wantRead(t, b, name, "")
}

// testRenewKeeps holds a lease for two and a half times its TTL; another
// owner tries all the while.
func testRenewKeeps(t *testing.T, b lease.Backend) {
	tok := acquire(t, b, name, "me")
	tick := time.NewTicker(b.TTL() / 5)
	defer tick.Stop()
	for end := time.Now().Add(b.TTL() * 5 / 2); time.Now().Before(end); <-tick.C {
		var err error
		tok, err = b.Renew(t.Context(), name, tok)
		must(t, err)
		if tok.Owner != "me" {
			t.Fatalf("Renew: got the token of %q", tok.Owner)
		}
		wantHeld(t, b, name, "other")
	}
	must(t, b.Release(t.Context(), name, tok))
	acquire(t, b, name, "other")
}

func testExpiryFrees(t *testing.T, b lease.Backend) {
	start := time.Now()
	acquire(t, b, name, "crashed")
	took := awaitEnd(t, b, name).Sub(start)
	// A server may count in whole milliseconds.
	if took < b.TTL()-5*time.Millisecond {
		t.Errorf("the lease ended after %v, before its TTL of %v", took, b.TTL())
	}
	tok := acquire(t, b, name, "next")
	must(t, b.Release(t.Context(), name, tok))
}

// testExpiryFreesAfterRenewal: a renewal must not make a lease outlive its
// holder for ever.
func testExpiryFreesAfterRenewal(t *testing.T, b lease.Backend) {
	tok := acquire(t, b, name, "crashed")
	for range 3 {
		var err error
		tok, err = b.Renew(t.Context(), name, tok)
		must(t, err)
	}
	start := time.Now()
	if took := awaitEnd(t, b, name).Sub(start); took < b.TTL()/2 {
		t.Errorf("the renewed lease ended after %v, long before its TTL of %v", took, b.TTL())
	}
	acquire(t, b, name, "next")
}

func testLostLease(t *testing.T, b lease.Backend) {
	mine := acquire(t, b, name, "me")
	awaitEnd(t, b, name)
	_, err := b.Renew(t.Context(), name, mine)
	wantErr(t, "Renew of an ended lease", err, lease.ErrLost)
	wantRead(t, b, name, "")
	wantErr(t, "Release of an ended lease", b.Release(t.Context(), name, mine), lease.ErrLost)

	theirs := acquire(t, b, name, "other")
	_, err = b.Renew(t.Context(), name, mine)
	wantErr(t, "Renew of another's lease", err, lease.ErrLost)
	wantErr(t, "Release of another's lease", b.Release(t.Context(), name, mine), lease.ErrLost)
	wantRead(t, b, name, "other")
	theirs, err = b.Renew(t.Context(), name, theirs)
	must(t, err)
	must(t, b.Release(t.Context(), name, theirs))
}

func testNames(t *testing.T, b lease.Backend) {
	names := []string{"openai.a", "openai.A", "openai.aa", "openai-a.a", "gemini.a_-"}
	var tokens []lease.Token
	for _, n := range names {
		tokens = append(tokens, acquire(t, b, n, "owner of "+n))
	}
	must(t, b.Release(t.Context(), names[0], tokens[0]))
	wantRead(t, b, names[0], "")
	for _, n := range names[1:] {
		wantRead(t, b, n, "owner of "+n)
	}
}

func testCancelledContext(t *testing.T, b lease.Backend) {
	tok := acquire(t, b, name, "me")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for what, call := range map[string]func() error{
		"Acquire": func() error { _, err := b.Acquire(ctx, "openai.b", "me2"); return err },
		"Renew":   func() error { _, err := b.Renew(ctx, name, tok); return err },
		"Release": func() error { return b.Release(ctx, name, tok) },
		"Read":    func() error { _, err := b.Read(ctx, name); return err },
	} {
		err := call()
		wantErr(t, what, err, context.Canceled)
		for _, certain := range []error{refresh.ErrHeld, ledger.ErrNotFound, lease.ErrLost} {
			if errors.Is(err, certain) {
				t.Errorf("%s with a cancelled context claims a certain outcome: %v", what, err)
			}
		}
	}
	must(t, b.Release(t.Context(), name, tok))
}

func acquire(t *testing.T, b lease.Backend, name, owner string) lease.Token {
	t.Helper()
	tok, err := b.Acquire(t.Context(), name, owner)
	must(t, err)
	if tok.Owner != owner {
		t.Fatalf("Acquire for %q: got the token of %q", owner, tok.Owner)
	}
	return tok
}

// awaitEnd waits for the lease to end by itself and returns when it was seen
// to have ended. Much longer than the TTL is a failure.
func awaitEnd(t *testing.T, b lease.Backend, name string) time.Time {
	t.Helper()
	tick := time.NewTicker(b.TTL() / 50)
	defer tick.Stop()
	for end := time.Now().Add(2*b.TTL() + 2*time.Second); ; <-tick.C {
		_, err := b.Read(t.Context(), name)
		if errors.Is(err, ledger.ErrNotFound) {
			return time.Now()
		}
		must(t, err)
		if time.Now().After(end) {
			t.Fatalf("the lease still exists, long after its TTL of %v", b.TTL())
		}
	}
}

func wantRead(t *testing.T, b lease.Backend, name, owner string) {
	t.Helper()
	tok, err := b.Read(t.Context(), name)
	if owner == "" {
		wantErr(t, "Read", err, ledger.ErrNotFound)
		return
	}
	must(t, err)
	if tok.Owner != owner {
		t.Fatalf("Read of %s: got owner %q, want %q", name, tok.Owner, owner)
	}
}

func wantHeld(t *testing.T, b lease.Backend, name, owner string) {
	t.Helper()
	_, err := b.Acquire(t.Context(), name, owner)
	wantErr(t, "Acquire of a held lease", err, refresh.ErrHeld)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, what string, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("%s: got error %v, want one that is %q", what, err, target)
	}
}
