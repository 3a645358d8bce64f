package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/client"
	"github.com/tokenbus/tokenbus/client/clienttest"
	"github.com/tokenbus/tokenbus/events"
)

// A stopped worker still gets its share of the requests: another is asked.
func TestFrozenWorkerIsPassed(t *testing.T) {
	f := clienttest.Start(t)
	c := f.Client()
	var keys []account.Key
	for i := range 20 {
		keys = append(keys, f.Login(fmt.Sprintf("openai.a%d", i), time.Hour))
	}
	f.Freeze(0)
	var all sync.WaitGroup
	for _, key := range keys {
		all.Go(func() {
			var token client.Token
			var err error
			for range 6 { // one in 128 has its requests to the stopped one alone
				ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
				token, err = c.Token(ctx, key)
				cancel()
				if !errors.Is(err, client.ErrTimeout) {
					break
				}
			}
			if err != nil || token.Version != 1 {
				t.Errorf("%s: %v, %v", key, token, err)
			}
		})
	}
	all.Wait()
	if s := c.Stats(); s.Requests == s.Asked {
		t.Errorf("no worker was passed: %+v", s)
	}
}

// A worker that can't is passed too.
func TestFailingWorkerIsPassed(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	c := f.Client()
	var mu sync.Mutex
	failures := 0
	f.Override(func(account.Key, events.TokenRequest) []byte {
		mu.Lock()
		defer mu.Unlock()
		if failures++; failures <= 2 {
			return events.Unavailable(time.Second, "the store is away").Encode()
		}
		return nil
	})
	ask(t, c, key, 1)
	mu.Lock()
	failures = -10
	mu.Unlock()
	f.Fail(key, events.Unavailable(time.Second, "the store is away"))
	began := time.Now()
	if _, err := c.Token(t.Context(), key, client.WithMinTTL(2*time.Minute), client.WithMinVersion(2)); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("it took %s", d)
	}
}

func TestNoRespondersIsSaidAtOnce(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	c := f.Client()
	f.Leave()
	_, err := c.Token(t.Context(), key)
	if e, ok := errors.AsType[*client.Error](err); !ok || !errors.Is(err, client.ErrUnavailable) || e.RetryAfter <= 0 {
		t.Errorf("got %v", err)
	}
	if s := c.Stats(); s.Requests != 1 || s.Failed != 1 {
		t.Errorf("stats: %+v", s)
	}
}

func TestContextEndsBeforeAnAnswer(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	c := f.Client()
	f.Freeze(0)
	f.Freeze(1)
	for name, tt := range map[string]struct {
		ctx  func() (context.Context, context.CancelFunc)
		want error
	}{
		"deadline": {func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(t.Context(), 30*time.Millisecond)
		}, client.ErrTimeout},
		"deadline has passed": {func() (context.Context, context.CancelFunc) {
			return context.WithDeadline(t.Context(), time.Unix(0, 0))
		}, client.ErrTimeout},
		"cancelled": {func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return ctx, cancel
		}, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := tt.ctx()
			defer cancel()
			if token, err := c.Token(ctx, key); !errors.Is(err, tt.want) {
				t.Errorf("got %v, %v", token, err)
			}
		})
	}
	// With a living token nobody is sent away.
	f.Thaw(0)
	f.Thaw(1)
	ask(t, c, key, 1)
	f.Freeze(0)
	f.Freeze(1)
	f.Advance(time.Minute)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if token, err := c.Token(ctx, key); err != nil || token.Version != 1 {
		t.Errorf("got %v, %v", token, err)
	}
}

func TestRejectedVersion(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	c := f.Client()
	ask(t, c, key, 1)
	f.Delay(20 * time.Millisecond)
	var all sync.WaitGroup
	for range 50 { // all at once: one report
		all.Go(func() {
			if token, err := c.Token(t.Context(), key, client.WithRejectedVersion(1)); err != nil || token.Version != 2 {
				t.Errorf("got %v, %v", token, err)
			}
		})
	}
	all.Wait()
	reports := 0
	for _, r := range f.Requests(key) {
		if r.RejectedVersion != 0 {
			reports++
		}
		if r.RejectedVersion > 1 || r.RejectedVersion == 1 && r.KnownVersion != 0 {
			t.Errorf("asked %+v", r)
		}
	}
	if reports != 1 {
		t.Errorf("reported %d times: %+v", reports, f.Requests(key))
	}
	// Who comes late gets the newer one from memory, as soon as its own bump is settled.
	f.Delay(0)
	eventually(t, "from memory", func() bool {
		return ask(t, c, key, 2, client.WithRejectedVersion(1)).Source == client.SourceClient
	})
	f.FailRefresh(key, events.CoolingDown(7*time.Second, "too early"))
	_, err := c.Token(t.Context(), key, client.WithRejectedVersion(2))
	if e, ok := errors.AsType[*client.Error](err); !ok || !errors.Is(err, client.ErrCoolingDown) || e.RetryAfter != 7*time.Second {
		t.Errorf("got %v", err)
	}
	ask(t, c, key, 2) // who asks for nothing special gets what lives
}

// A slow answer that another has overtaken is not handed out.
func TestP3OvertakenAnswer(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	c := f.Client()
	held, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.Override(func(k account.Key, req events.TokenRequest) []byte {
		if req.MinVersion > 0 || req.MinTTL > 0 {
			return nil
		}
		once.Do(func() { close(held) })
		<-release
		return events.TokenReply{Key: k, Version: 1, AccessToken: account.NewSecret(key.String() + "-1"), ExpiresAt: f.Now().Add(time.Hour)}.Encode()
	})
	slow := make(chan client.Token, 1)
	go func() {
		token, err := c.Token(t.Context(), key)
		if err != nil {
			t.Error(err)
		}
		slow <- token
	}()
	<-held
	f.Rotate(key)
	ask(t, c, key, 2, client.WithMinTTL(time.Minute))
	close(release)
	if token := <-slow; token.Version != 2 {
		t.Errorf("version fell to %d", token.Version)
	}
}

func TestCloseWaits(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	c := f.Client()
	ask(t, c, key, 1)
	f.Freeze(0)
	f.Freeze(1)
	ended := make(chan error, 1)
	go func() { _, err := c.Token(t.Context(), key, client.WithMinVersion(2)); ended <- err }()
	eventually(t, "asked", func() bool { return c.Stats().Requests > 1 })
	check(t, c.Close())
	check(t, c.Close())
	if err := <-ended; !errors.Is(err, client.ErrClosed) {
		t.Errorf("who waited got %v", err)
	}
	for name, look := range map[string]func() error{
		"held":     func() error { _, err := c.Token(t.Context(), key); return err },
		"not held": func() error { _, err := c.Token(t.Context(), bob); return err },
		"a new platform": func() error {
			_, err := c.Token(t.Context(), must(account.ParseKey("x.y")))
			return err
		},
		"source": func() error { _, err := c.TokenSource(t.Context(), key).Token(); return err },
	} {
		if err := look(); !errors.Is(err, client.ErrClosed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// A caller may close his connection first.
func TestCallersConnectionIsClosedFirst(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	nc := f.Connect()
	c, err := client.New(client.Config{Conn: nc})
	check(t, err)
	ask(t, c, key, 1)
	nc.Close()
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	select {
	case err := <-closed:
		check(t, err)
	case <-time.After(30 * time.Second):
		t.Fatal("Close does not end")
	}
}
