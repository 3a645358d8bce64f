package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/client"
	"github.com/tokenbus/tokenbus/client/clienttest"
	"github.com/tokenbus/tokenbus/events"
)

// eventually waits until ok says so.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(30 * time.Second); !ok(); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// ask wants a token of this version, and returns it.
func ask(t testing.TB, c *client.Client, key account.Key, want account.Version, opts ...client.Option) client.Token {
	t.Helper()
	token, err := c.Token(t.Context(), key, opts...)
	if err != nil || token.Version != want || token.AccessToken() != fmt.Sprintf("%s-%d", key, want) {
		t.Fatalf("got %v, %v; want version %d", token, err, want)
	}
	return token
}

// requests wants the workers to have been asked so many times.
func requests(t testing.TB, f *clienttest.Fleet, key account.Key, want int) {
	t.Helper()
	if got := f.Requests(key); len(got) != want {
		t.Fatalf("the workers were asked %d times, want %d: %+v", len(got), want, got)
	}
}

// settle returns when the client has heard every bump that was sent.
func settle(t testing.TB, f *clienttest.Fleet, c *client.Client) {
	t.Helper()
	last := f.Login("openai.last", time.Hour)
	_, err := c.Token(t.Context(), last)
	check(t, err)
	v := f.Rotate(last)
	eventually(t, "the last bump is heard", func() bool {
		token, err := c.Token(t.Context(), last)
		return err == nil && token.Version == v
	})
}

// longAge leaves it to bumps to tell of changes.
func longAge(cfg *client.Config) { cfg.MaxAge = time.Hour }

func TestTokenIsHeld(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	c := f.Client()
	if first := ask(t, c, key, 1); first.Source != events.SourceL1 {
		t.Errorf("source is %q", first.Source)
	}
	for range 10 {
		if again := ask(t, c, key, 1); again.Source != client.SourceClient {
			t.Errorf("source is %q", again.Source)
		}
	}
	ask(t, c, key, 1, client.WithMinTTL(time.Minute))
	ask(t, c, key, 1, client.WithMinVersion(1))
	requests(t, f, key, 1)
	if s := c.Stats(); s.Hits != 12 || s.Asked != 1 || s.Accounts != 1 || !s.Connected {
		t.Errorf("stats: %+v", s)
	}
}

func TestSingleFlight(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	c := f.Client()
	f.Delay(50 * time.Millisecond)
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			if token, err := c.Token(t.Context(), key); err != nil || token.Version != 1 {
				t.Errorf("got %v, %v", token, err)
			}
		})
	}
	all.Wait()
	requests(t, f, key, 1)
}

// Who waits with others leaves when he likes, and takes nothing from them.
func TestJoinersLeave(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	c := f.Client()
	f.Freeze(0)
	f.Freeze(1)
	impatient, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() { _, err := c.Token(impatient, key); left <- err }()
	eventually(t, "asked", func() bool { return c.Stats().Requests > 0 })
	got := make(chan error, 1)
	go func() { _, err := c.Token(t.Context(), key); got <- err }()
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("who left got %v", err)
	}
	f.Thaw(0)
	f.Thaw(1)
	if err := <-got; err != nil {
		t.Errorf("who stayed got %v", err)
	}
}

func TestP4BumpSetsAFloor(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	c := f.Client(longAge)
	ask(t, c, key, 1)
	f.Rotate(key)
	eventually(t, "the bump is heard", func() bool { return c.Stats().Bumps > 0 })
	ask(t, c, key, 2)
	last := f.Requests(key)[len(f.Requests(key))-1]
	if last.MinVersion > 1 {
		t.Errorf("a bump's version was sent as min_version: %+v", last)
	}
	// Late and repeated ones change nothing.
	n := len(f.Requests(key))
	f.Bump(events.Bump{Key: key, Version: 1, Rev: 1})
	f.Bump(events.Bump{Key: key, Version: 2, Rev: 2})
	other := f.Login("openai.bob", time.Hour)
	ask(t, c, other, 1)
	f.Rotate(other)
	eventually(t, "a later bump is heard", func() bool { return c.Stats().Bumps > 1 })
	ask(t, c, key, 2)
	requests(t, f, key, n)
}

// Nothing below what a bump has announced is handed out, not even with the fleet
// away.
func TestP4FloorHoldsWithoutWorkers(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	c := f.Client(longAge)
	ask(t, c, key, 1)
	f.Leave()
	f.Rotate(key)
	eventually(t, "the bump is heard", func() bool { return c.Stats().Bumps > 0 })
	if token, err := c.Token(t.Context(), key); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("got %v, %v", token, err)
	}
	f.Cut()
	eventually(t, "cut off", func() bool { return !c.Stats().Connected })
	if token, err := c.Token(t.Context(), key); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("cut off: got %v, %v", token, err)
	}
	f.Heal()
	f.Join()
	ask(t, c, key, 2)
}

// A bump of a version that the fleet doesn't have doesn't end the account.
func TestForgedBumpIsRefuted(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	c := f.Client(longAge)
	ask(t, c, key, 1)
	f.Bump(events.Bump{Key: key, Version: 99, Rev: 99})
	eventually(t, "the bump is heard", func() bool { return c.Stats().Bumps > 0 })
	ask(t, c, key, 1)
	n := len(f.Requests(key))
	ask(t, c, key, 1)
	requests(t, f, key, n)
	for _, r := range f.Requests(key) {
		if r.MinVersion > 1 {
			t.Errorf("asked for version %d", r.MinVersion)
		}
	}
}

// The worker that is asked first after a bump may not have heard it yet.
func TestP4WorkerThatLagsIsAskedAgain(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	c := f.Client(longAge)
	ask(t, c, key, 1)
	var lagged atomic.Int64
	f.Override(func(k account.Key, req events.TokenRequest) []byte {
		if lagged.Add(1) > 2 {
			return nil
		}
		return events.TokenReply{Version: 1, NotModified: true, ExpiresAt: f.Now().Add(time.Hour)}.Encode()
	})
	f.Rotate(key)
	eventually(t, "the bump is heard", func() bool { return c.Stats().Bumps > 0 })
	ask(t, c, key, 2)
}

// A status change is a bump of the same version: the token is served again once a
// worker has said so.
func TestDisabledIsHeard(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	c := f.Client(longAge)
	ask(t, c, key, 1)
	f.Fail(key, &events.Error{Code: events.CodeDisabled, Message: "an operator"})
	eventually(t, "disabled", func() bool {
		_, err := c.Token(t.Context(), key)
		return errors.Is(err, client.ErrDisabled)
	})
	f.Leave()
	if token, err := c.Token(t.Context(), key); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("what was withdrawn is served: %v, %v", token, err)
	}
	f.Join()
	f.Fail(key, nil)
	ask(t, c, key, 1)
}

// A reply that was asked for before a bump may be older than it: it is used once.
func TestReplyThatABumpOvertookIsChecked(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	c := f.Client(longAge)
	asked, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.Override(func(k account.Key, req events.TokenRequest) []byte {
		once.Do(func() { close(asked) })
		if req.KnownVersion != 0 {
			return nil
		}
		<-release
		return events.TokenReply{Key: k, Version: 1, AccessToken: account.NewSecret(key.String() + "-1"), ExpiresAt: f.Now().Add(time.Hour)}.Encode()
	})
	got := make(chan error, 1)
	go func() { _, err := c.Token(t.Context(), key); got <- err }()
	<-asked
	f.Fail(key, &events.Error{Code: events.CodeDisabled, Message: "an operator"})
	eventually(t, "the bump is heard", func() bool { return c.Stats().Bumps > 0 })
	close(release)
	check(t, <-got)
	if token, err := c.Token(t.Context(), key); !errors.Is(err, client.ErrDisabled) {
		t.Errorf("got %v, %v", token, err)
	}
}

// What is in use is asked about as soon as a bump is heard, so that the next
// look-up waits little or not at all; what nobody has used since is left alone.
func TestP6BumpIsFollowedAhead(t *testing.T) {
	f := clienttest.Start(t)
	key, other := f.Login("openai.alice", time.Hour), f.Login("openai.bob", time.Hour)
	c := f.Client(longAge)
	ask(t, c, key, 1)
	ask(t, c, other, 1)
	f.Rotate(key)
	eventually(t, "followed", func() bool { return c.Stats().Asked == 3 })
	f.Rotate(key)
	f.Rotate(other) // heard after the one before
	eventually(t, "followed", func() bool { return c.Stats().Asked == 4 })
	requests(t, f, key, 2)
	ask(t, c, key, 3)
}

func TestP6RefreshAheadBesideLookups(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	c := f.Client()
	ask(t, c, key, 1)
	f.Advance(57*time.Minute + 5*time.Second) // within the skew, and past max age
	ask(t, c, key, 1)
	n := len(f.Requests(key))
	if n < 2 {
		t.Fatalf("asked %d times", n)
	}
	f.Advance(10 * time.Second)
	f.Freeze(0)
	f.Freeze(1)
	ask(t, c, key, 1) // nobody waits
	f.Thaw(0)
	f.Thaw(1)
	eventually(t, "asked beside", func() bool { return len(f.Requests(key)) > n })
}

func TestMaxAge(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	c := f.Client()
	ask(t, c, key, 1)
	f.RotateUnheard(key)
	f.Advance(15 * time.Second)
	ask(t, c, key, 1)
	requests(t, f, key, 1)
	f.Advance(15 * time.Second)
	ask(t, c, key, 2)
	if r := f.Requests(key)[1]; r.KnownVersion != 1 || r.MinVersion != 1 {
		t.Errorf("asked %+v", r)
	}
}

// Two thirds into max age the check is made beside, so that nobody waits for it.
func TestCheckBesideBeforeMaxAge(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	c := f.Client()
	ask(t, c, key, 1)
	f.Advance(25 * time.Second)
	ask(t, c, key, 1)
	eventually(t, "checked", func() bool { return len(f.Requests(key)) == 2 && c.Stats().Asked == 2 })
	f.Advance(15 * time.Second)
	f.Freeze(0)
	f.Freeze(1)
	if s := ask(t, c, key, 1).Source; s != client.SourceClient {
		t.Errorf("source is %q", s)
	}
}

func TestP5NeverAnExpiredToken(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	c := f.Client()
	ask(t, c, key, 1)
	f.Leave()
	f.Advance(time.Hour - 2*time.Second)
	ask(t, c, key, 1) // the last living one
	f.Advance(time.Second + time.Millisecond)
	if token, err := c.Token(t.Context(), key); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("got %v, %v", token, err)
	}
	f.Join()
	ask(t, c, key, 2)
}

// A look-up that takes any token that lives gets the one that lives, from a worker
// and from memory.
func TestNoMinTTLTakesWhatLives(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	c := f.Client()
	f.Advance(time.Hour - 20*time.Second)
	ask(t, c, key, 1, client.WithMinTTL(0))
	if r := f.Requests(key); len(r) != 1 || r[0].MinTTL == 0 || r[0].MinTTL >= time.Millisecond {
		t.Errorf("asked %+v", r)
	}
	f.Advance(10 * time.Second)
	if token := ask(t, c, key, 1, client.WithMinTTL(0)); token.Source != client.SourceClient {
		t.Errorf("source is %q", token.Source)
	}
	ask(t, c, key, 2)
}

func TestP7CutOffServesUntilExpiry(t *testing.T) {
	f := clienttest.Start(t)
	key, unknown := f.Login("openai.alice", time.Hour), f.Login("openai.bob", time.Hour)
	c := f.Client()
	ask(t, c, key, 1)
	f.Cut()
	eventually(t, "cut off", func() bool { return !c.Stats().Connected })
	f.Advance(59 * time.Minute)
	ask(t, c, key, 1)
	began := time.Now()
	if _, err := c.Token(t.Context(), unknown); !errors.Is(err, client.ErrUnavailable) || time.Since(began) > 8*time.Second {
		t.Errorf("got %v after %s", err, time.Since(began))
	}
	f.Advance(time.Minute)
	if token, err := c.Token(t.Context(), key); err == nil {
		t.Errorf("cut off, an expired token is served: %v", token)
	}
	f.Heal()
	ask(t, c, key, 2)
}

// With the workers away, only the first look-up waits for one.
func TestP7SilentFleetCostsOneWait(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	c := f.Client()
	ask(t, c, key, 1)
	f.Freeze(0)
	f.Freeze(1)
	f.Advance(31 * time.Second) // due for its check
	began := time.Now()
	ask(t, c, key, 1)
	first := time.Since(began)
	began = time.Now()
	for range 100 {
		ask(t, c, key, 1)
	}
	if rest := time.Since(began); first < 900*time.Millisecond || first > 8*time.Second || rest > first {
		t.Errorf("the first waited %s, a hundred others %s", first, rest)
	}
}

func TestP7LivingTokenIsServedThroughErrors(t *testing.T) {
	for _, code := range []events.Code{events.CodeUnavailable, events.CodeCoolingDown, events.CodeReauthRequired, events.CodeTimeout} {
		t.Run(string(code), func(t *testing.T) {
			f := clienttest.Start(t)
			key := f.Login("openai.alice", time.Hour)
			c := f.Client()
			ask(t, c, key, 1)
			f.FailRefresh(key, &events.Error{Code: code, Message: "no", RetryAfter: time.Second})
			eventually(t, "the bump is heard", func() bool { return c.Stats().Bumps > 0 })
			f.Advance(time.Hour - 20*time.Second)
			ask(t, c, key, 1)
			f.Advance(20 * time.Second)
			_, err := c.Token(t.Context(), key)
			if e, ok := errors.AsType[*client.Error](err); !ok || e.Code != code {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Connected again, what was replaced meanwhile isn't served, and what was not is
// served without a question.
func TestP4CatchUpAfterACut(t *testing.T) {
	f := clienttest.Start(t)
	c := f.Client(longAge)
	var keys []account.Key
	for i := range 20 {
		key := f.Login(fmt.Sprintf("openai.a%d", i), time.Hour)
		keys = append(keys, key)
		ask(t, c, key, 1)
		f.Rotate(key)
	}
	settle(t, f, c) // now each account's last bump is one that the client has heard
	eventually(t, "quiet", func() bool {
		n := c.Stats().Asked
		for _, key := range keys {
			ask(t, c, key, 2)
		}
		return c.Stats().Asked == n
	})
	changed, unchanged := keys[:5], keys[5:]
	// Where the client catches up before it has taken in that it is connected, it
	// does so again, and asks meanwhile. That is rare; what is asked about each time
	// was not caught up with.
	version := account.Version(2)
	for try := 1; ; try++ {
		f.Cut()
		eventually(t, "cut off", func() bool { return !c.Stats().Connected })
		for _, key := range changed {
			f.Rotate(key)
			ask(t, c, key, version)
		}
		for _, key := range unchanged {
			ask(t, c, key, 2)
		}
		before := c.Stats().CaughtUp
		f.Heal()
		eventually(t, "caught up", func() bool { return c.Stats().CaughtUp >= before+int64(len(unchanged)) })
		version++
		for _, key := range changed {
			ask(t, c, key, version)
		}
		asked := c.Stats().Asked
		for _, key := range unchanged {
			ask(t, c, key, 2)
		}
		n := c.Stats().Asked - asked
		if n == 0 {
			break
		}
		if try == 3 {
			t.Fatalf("%d of the unchanged were asked about", n)
		}
	}
}

// With the bump stream purged, or gone, each account is asked about.
func TestP4CatchUpWithoutAStream(t *testing.T) {
	for name, spoil := range map[string]func(context.Context, jetstream.JetStream) error{
		"purged": func(ctx context.Context, js jetstream.JetStream) error {
			s, err := js.Stream(ctx, events.StreamBumps)
			return errors.Join(err, s.Purge(ctx))
		},
		"gone": func(ctx context.Context, js jetstream.JetStream) error {
			return js.DeleteStream(ctx, events.StreamBumps)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := clienttest.Start(t)
			key := f.Login("openai.alice", time.Hour)
			c := f.Client(longAge)
			ask(t, c, key, 1)
			f.Cut()
			eventually(t, "cut off", func() bool { return !c.Stats().Connected })
			f.RotateUnheard(key)
			ask(t, c, key, 1)
			f.Heal()
			other := f.Connect()
			js, err := jetstream.New(other)
			check(t, err)
			check(t, spoil(t.Context(), js))
			eventually(t, "connected", func() bool { return c.Stats().Connected && c.Stats().Missed >= 2 })
			ask(t, c, key, 2)
		})
	}
}

// A version that was seen stays a floor after the account went for want of room.
func TestP3SurvivesEviction(t *testing.T) {
	f := clienttest.Start(t)
	c := f.Client(func(cfg *client.Config) { cfg.MaxAccounts = 10 })
	key := f.Login("openai.alice", time.Hour)
	f.Rotate(key)
	ask(t, c, key, 2)
	for i := range 400 {
		ask(t, c, f.Login(fmt.Sprintf("openai.b%d", i), time.Hour), 1)
	}
	if s := c.Stats(); s.Accounts != 10 || s.Evicted != 391 {
		t.Errorf("stats: %+v", s)
	}
	f.Override(func(k account.Key, req events.TokenRequest) []byte {
		return events.TokenReply{Key: k, Version: 1, AccessToken: account.NewSecret("old"), ExpiresAt: f.Now().Add(time.Hour)}.Encode()
	})
	if token, err := c.Token(t.Context(), key); !errors.Is(err, client.ErrBadReply) {
		t.Errorf("got %v, %v", token, err)
	}
	f.Override(nil)
	ask(t, c, key, 2)
}

// Where a refresh ends the old token at once, nobody is given that while it runs.
func TestRefreshThatEndsTheOldTokenIsWaitedFor(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	c := f.Client(longAge)
	ask(t, c, key, 1)
	worker := f.Connect()
	begins := func() { // the workers wait for it, as they do
		t.Helper()
		f.Freeze(0)
		f.Freeze(1)
		e := events.Status{Key: key, Status: account.Active, Code: events.StatusRefreshing, Until: f.Now().Add(time.Hour), At: f.Now()}
		check(t, errors.Join(worker.Publish("tokenbus.v1.status."+key.String(), e.Encode()), worker.Flush()))
		eventually(t, "it is heard", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			_, err := c.Token(ctx, key)
			return errors.Is(err, client.ErrTimeout)
		})
	}
	thaw := func() { f.Thaw(0); f.Thaw(1) }
	begins()
	thaw()
	v := f.Rotate(key)
	ask(t, c, key, v, client.WithMinVersion(v))
	settle(t, f, c)
	ask(t, c, key, v)
	// One that comes to nothing: a worker's word ends it.
	begins()
	thaw()
	eventually(t, "it is served without a question again", func() bool {
		before := c.Stats().Hits
		ask(t, c, key, v)
		return c.Stats().Hits > before
	})
	// One of which nothing more is heard: it ends by itself.
	begins()
	f.Advance(time.Minute)
	ask(t, c, key, v)
}

// Many platforms are listened to all at once.
func TestManyPlatforms(t *testing.T) {
	f := clienttest.Start(t)
	nc := f.Connect()
	c := f.Client(longAge, func(cfg *client.Config) { cfg.Conn = nc })
	var keys []account.Key
	for i := range 40 {
		key := f.Login(fmt.Sprintf("p%d.alice", i), time.Hour)
		keys = append(keys, key)
		ask(t, c, key, 1)
	}
	if n := nc.NumSubscriptions(); n > 4 {
		t.Errorf("%d subscriptions", n)
	}
	for _, key := range keys {
		f.Rotate(key)
		eventually(t, "bump heard", func() bool { token, err := c.Token(t.Context(), key); return err == nil && token.Version == 2 })
	}
}

func TestNothingIsHeldWithNegativeMaxAge(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	c := f.Client(func(cfg *client.Config) { cfg.MaxAge = -1 })
	for range 3 {
		ask(t, c, key, 1)
	}
	requests(t, f, key, 3)
}

// A token without an end is not held.
func TestNoExpiryIsNotHeld(t *testing.T) {
	f := clienttest.Start(t)
	c := f.Client()
	f.Override(func(k account.Key, req events.TokenRequest) []byte {
		return events.TokenReply{Key: k, Version: 1, AccessToken: account.NewSecret("t")}.Encode()
	})
	for range 2 {
		if _, err := c.Token(t.Context(), alice); err != nil {
			t.Fatal(err)
		}
	}
	requests(t, f, alice, 2)
}
