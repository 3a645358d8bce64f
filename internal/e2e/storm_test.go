package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/client"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/seal"
)

// storm is three workers that are killed and started again while askers ask
// for accounts at a third party's server.
type storm struct {
	fleet
	server   *rig.OIDCServer
	front    *front
	logins   []login
	workers  []*process
	commands []func(*testing.T) *process // each starts a worker
	rng      *rand.Rand
	kills    []kill

	mu       sync.Mutex // guards the rest
	asked    int
	answered int
	refused  map[events.Code]int
	dead     map[account.Key]bool // whoever asked was told to log in again
}

// How long a silent worker keeps its rotation, and how long an exchange may
// take.
const (
	stormLease   = 2 * time.Second
	stormTimeout = 5 * time.Second
)

// kill is the end of a worker.
type kill struct {
	worker string
	at     time.Time
}

// Three workers are killed and started again at random while askers ask for
// twenty accounts. A grant is revoked only where an answer was on its way to a
// worker that was killed; those accounts say so, and their refresh tokens are
// sent no more. E2E_STORM=60s says for how long, E2E_SEED=n repeats its choices.
func TestThirdPartyStorm(t *testing.T) {
	length, seed := stormLength(t)
	s := newStorm(t, 20, seed)
	ctx, calm := context.WithTimeout(t.Context(), length)
	var askers sync.WaitGroup
	samples := make(chan client.Token)
	for range 2 {
		gw := s.gateway(t)
		for _, l := range s.logins {
			askers.Go(func() {
				if err := s.ask(ctx, gw, l.key, samples); err != nil {
					t.Error(err)
				}
			})
		}
	}
	checked := make(chan struct{})
	go func() {
		defer close(checked)
		for token := range samples {
			s.check(t, token)
		}
	}()
	s.rage(t, ctx)
	calm()
	askers.Wait()
	close(samples)
	<-checked

	lost := s.settle(t)
	s.quiet(t, lost)
	revoked, refreshes := 0, 0
	for _, l := range s.logins {
		g := s.server.Grant(t, l.GrantID)
		refreshes += g.Refreshes
		if g.Revoked {
			revoked++
		}
		if lostIt := slices.Contains(lost, l.key); g.Revoked != lostIt {
			t.Errorf("%s: revoked %t, an answer was lost: %t; %+v", l.key, g.Revoked, lostIt, g)
		} else if lostIt && !s.front.cutOff(l.key, s.kills) {
			t.Errorf("%s: an answer is lost, and none was on its way to a worker that was killed", l.key)
		} else if s.dead[l.key] && !lostIt {
			t.Errorf("%s: somebody was told to log in again", l.key)
		}
	}
	if len(lost) == 0 {
		t.Error("no answer was lost, though workers were killed while theirs was held")
	}
	for _, err := range s.front.problems() {
		t.Error(err)
	}
	for i, w := range s.workers {
		w.stop(t)
		s.workers[i] = nil
	}
	fmt.Printf("storm: seed=%d accounts=%d seconds=%.0f kills=%d refreshes=%d lost=%d revoked=%d asked=%d answered=%d refused=%v\n",
		seed, len(s.logins), length.Seconds(), len(s.kills), refreshes, len(lost), revoked, s.asked, s.answered, s.refused)
}

func stormLength(t *testing.T) (length time.Duration, seed uint64) {
	t.Helper()
	v := os.Getenv("E2E_STORM")
	if v == "" {
		t.Skip("random kills take a machine of their own: make storm")
	}
	length, err := time.ParseDuration(v)
	if err != nil || length < 5*time.Second {
		t.Fatalf("E2E_STORM: %q: want a time of at least 5s", v)
	}
	seed = rand.Uint64() >> 32
	if v := os.Getenv("E2E_SEED"); v != "" {
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatalf("E2E_SEED: %v", err)
		}
	}
	return length, seed
}

func newStorm(t *testing.T, accounts int, seed uint64) *storm {
	t.Helper()
	t.Logf("E2E_SEED=%d", seed)
	s := &storm{
		server: rig.OIDC(t, rig.OIDCConfig{AccessTokenTTL: 8 * time.Second}), rng: rand.New(rand.NewPCG(seed, 0)),
		refused: map[events.Code]int{}, dead: map[account.Key]bool{},
	}
	s.front = newFront(t, s.server.TokenURL, (stormLease+stormTimeout)*9/10, seed)
	dir := t.TempDir()
	subjects, err := events.NewSubjects(events.DefaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	nats, err := bus.StartServer(bus.ServerConfig{Listen: "127.0.0.1:0", DataDir: dir, Subjects: subjects, SyncInterval: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nats.Shutdown)
	s.fleet = fleet{nats.URL(), filepath.Dir(nats.KeyFile(bus.RoleWorker))}
	keyset := filepath.Join(dir, "keyset.json")
	if _, err := seal.Create(keyset); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		name := fmt.Sprintf("w%d", i+1)
		providers := write(t, dir, name+".yaml", fmt.Sprintf("providers:\n  oidc:\n    token_url: %s\n    client_id: %s\n    timeout: %s\n    headers: {User-Agent: %s}\n",
			s.front.url, rig.OIDCPublic, stormTimeout, name))
		s.commands = append(s.commands, func(t *testing.T) *process {
			t.Helper()
			return startWorker(t, filepath.Join(dir, name), "--worker-id", name, "--http-addr", "none", "--providers", providers,
				"--nats-url", s.url, "--nats-nkey", s.key("worker"), "--keyset", keyset, "--lease-ttl", stormLease.String())
		})
		s.workers = append(s.workers, s.commands[i](t))
	}
	for _, w := range s.workers {
		w.logs(t, "worker answers requests")
	}
	folder := filepath.Join(dir, "logins")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range accounts {
		l := newLogin(t, s.server, folder, "oidc", fmt.Sprintf("a%d", i+1), rig.OIDCPublic)
		s.front.own(l.RefreshToken, l.key)
		s.logins = append(s.logins, l)
	}
	if out := s.must(t, "accounts", "import", folder); !strings.HasSuffix(out, fmt.Sprintf("\n%d created\n", accounts)) {
		t.Fatalf("import says\n%s", out)
	}
	return s
}

// rage kills workers and starts them again until ctx ends. Some are killed
// while they wait for an answer that the server has given.
func (s *storm) rage(t *testing.T, ctx context.Context) {
	t.Helper()
	pause := func(least, most time.Duration) {
		wait := time.NewTimer(least + time.Duration(s.rng.Int64N(int64(most-least))))
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-ctx.Done():
		}
	}
	for n := 0; ctx.Err() == nil; n++ {
		pause(300*time.Millisecond, 2*time.Second)
		i := s.rng.IntN(len(s.workers))
		if n%8 == 1 {
			select {
			case name := <-s.front.victims:
				i, _ = strconv.Atoi(strings.TrimPrefix(name, "w"))
				i--
			case <-ctx.Done():
			}
		}
		s.kills = append(s.kills, kill{fmt.Sprintf("w%d", i+1), time.Now()})
		s.workers[i].kill()
		pause(0, time.Second)
		s.workers[i] = s.commands[i](t) // not waited for: the next kill may come at once
	}
	for _, w := range s.workers {
		w.logs(t, "worker answers requests")
	}
}

// ask asks for the account's token until ctx ends. Workers that are killed may
// cost an answer, and never bring a wrong one.
func (s *storm) ask(ctx context.Context, gw *client.Client, key account.Key, samples chan<- client.Token) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for seen := account.Version(0); ctx.Err() == nil; {
		request, cancel := context.WithTimeout(ctx, 3*time.Second)
		token, err := gw.Token(request, key)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		if err := s.note(key, err); err != nil {
			return err
		}
		if err == nil {
			if token.Version < seen || !token.ExpiresAt.After(time.Now()) {
				return fmt.Errorf("%s: version %d, which ends at %s, came after version %d", key, token.Version, token.ExpiresAt, seen)
			}
			seen = token.Version
			select {
			case samples <- token:
			default:
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	return nil
}

// note counts what a request came to. An error is one that no kill explains.
func (s *storm) note(key account.Key, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if err == nil {
		s.answered++
		return nil
	}
	e, ok := errors.AsType[*client.Error](err)
	if !ok {
		return fmt.Errorf("ask for %s: %w", key, err)
	}
	s.refused[e.Code]++
	switch e.Code {
	case events.CodeReauthRequired:
		s.dead[key] = true
	case events.CodeUnavailable, events.CodeCoolingDown, events.CodeTimeout:
	default:
		return fmt.Errorf("ask for %s: %w", key, err)
	}
	return nil
}

// check tries a token at the server. It must take it, unless the grant is gone.
func (s *storm) check(t *testing.T, token client.Token) {
	t.Helper()
	who, ok := s.server.Userinfo(t, token.AccessToken())
	if ok && who == token.Key.ID() || time.Until(token.ExpiresAt) <= 0 {
		return
	}
	if g := s.server.Grant(t, s.login(token.Key).GrantID); !g.Revoked {
		t.Errorf("the server takes version %d of %s for %q, %v", token.Version, token.Key, who, ok)
	}
}

func (s *storm) login(key account.Key) login {
	return s.logins[slices.IndexFunc(s.logins, func(l login) bool { return l.key == key })]
}

// settle waits until every account has come to rest, and returns those that
// lost an answer: the server has granted one refresh more than the account has
// versions for. The others have as many as that.
func (s *storm) settle(t *testing.T) []account.Key {
	t.Helper()
	open := map[account.Key]bool{}
	for _, l := range s.logins {
		open[l.key] = true
	}
	var lost []account.Key
	eventually(t, patience, func() error {
		keys := slices.SortedFunc(maps.Keys(open), func(a, b account.Key) int { return strings.Compare(a.String(), b.String()) })
		var unsettled error
		for _, doc := range s.accounts(t, keys...) {
			key := doc.Key()
			g := s.server.Grant(t, s.login(key).GrantID)
			switch {
			case doc.Rotation == nil && doc.Status == account.Active && account.Version(g.Refreshes) == doc.Version-1:
				delete(open, key)
			case doc.Rotation == nil && doc.Status == account.ReauthRequired && account.Version(g.Refreshes) == doc.Version &&
				doc.LastError != nil && doc.LastError.Code == events.StatusRotationLost:
				delete(open, key)
				lost = append(lost, key)
			default:
				unsettled = fmt.Errorf("%+v with error %+v, rotation %+v; its grant %+v, cut off %t", doc, doc.LastError, doc.Rotation, g, s.front.cutOff(key, s.kills))
			}
		}
		return unsettled
	})
	return lost
}

// quiet checks that accounts that are lost are left alone while the others go
// on being refreshed and serve tokens that the server takes.
func (s *storm) quiet(t *testing.T, lost []account.Key) {
	t.Helper()
	gw := s.gateway(t)
	sent := map[account.Key]int{}
	for _, key := range lost {
		sent[key] = s.front.sent(key)
		for range 3 {
			if _, err := gw.Token(t.Context(), key); !errors.Is(err, client.ErrReauthRequired) {
				t.Errorf("%s, which is lost, answers %v", key, err)
			}
		}
	}
	first := map[account.Key]account.Version{}
	for _, l := range s.logins {
		if slices.Contains(lost, l.key) {
			continue
		}
		token, err := gw.Token(t.Context(), l.key)
		if err != nil {
			t.Errorf("%s after the storm: %v", l.key, err)
			continue
		}
		s.check(t, token)
		first[l.key] = token.Version
	}
	eventually(t, patience, func() error {
		for key, version := range first {
			if next, err := gw.Token(t.Context(), key); err != nil || next.Version == version {
				return fmt.Errorf("%s is not refreshed after the storm: version %d, %w", key, version, err)
			}
			delete(first, key)
		}
		return nil
	})
	for key, n := range sent {
		if now := s.front.sent(key); now != n {
			t.Errorf("%s is lost, and its refresh token was sent %d more times", key, now-n)
		}
	}
}
