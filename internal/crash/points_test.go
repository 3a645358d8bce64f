//go:build linux

package crash_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// Who repairs what a crash left.
const (
	another = "another worker" // the dead one stays dead
	restart = "the next start" // another one is there all the time, and must not send
)

// point is what docs/rotation.md says about a crash at a named point.
type point struct {
	name     string
	platform string
	sent     int    // token requests before the crash
	repair   string // who
	requests int    // token requests in the end
	lost     bool   // the account is lost, and named
}

var points = []point{
	{"begun", strict, 0, another, 1, false},
	{"sending", strict, 0, another, 1, false},
	{"answered", strict, 1, another, 2, true},
	{"answered", grace, 1, another, 2, false},
	{"stashed", strict, 1, restart, 1, false},
	{"journaled", strict, 1, restart, 1, false},
	{"settled", strict, 1, another, 1, false},
	{"committed", strict, 1, another, 1, false},
	{"cached", strict, 1, another, 1, false},
	{"published", strict, 1, another, 1, false},
	{"bumped", strict, 1, another, 1, false},
}

func TestCrashPointsEmbedded(t *testing.T) {
	for _, p := range points {
		t.Run(p.name+" "+p.platform, func(t *testing.T) {
			t.Parallel()
			testPoint(t, config{}, p)
		})
	}
}

func TestCrashPointsDatabases(t *testing.T) {
	for _, p := range points {
		if p.name == "journaled" {
			p.repair = another // the shared journal is not where the store is
		}
		t.Run(p.name+" "+p.platform, func(t *testing.T) {
			t.Parallel()
			testPoint(t, config{databases: true}, p)
		})
	}
}

// testPoint kills a worker at the point and holds what follows against the
// document.
func testPoint(t *testing.T, cfg config, p point) {
	fl, alice := fleetWithAlice(t, cfg, p.platform, living)
	first, second := fl.workers[0], fl.workers[1]
	bumped := fl.listen(alice.key)

	dying := first.start(t, "TOKENBUS_CRASH_AT="+p.name)
	dying.serves(t)
	fl.crashDuringRotation(alice, p, dying)
	if got := len(fl.front.of(alice.key.String())); got != p.sent {
		t.Fatalf("%d token requests before the crash, want %d\n%s", got, p.sent, fl.story(alice.key.String()))
	}

	second.start(t).serves(t)
	if p.repair == restart {
		fl.lives(alice)
		first.start(t).serves(t)
	}
	fl.repaired(alice, p, bumped)
	if got := fl.front.of(alice.key.String()); len(got) != p.requests {
		t.Errorf("%d token requests in all, want %d", len(got), p.requests)
	} else if len(got) > p.sent {
		want := leaseTTL + patience
		if p.platform == grace {
			want = leaseTTL
		}
		if silence := got[p.sent].at.Sub(dying.died); silence < want {
			t.Errorf("taken over %s after the crash; a worker that was only frozen could still have had the answer", silence)
		}
	}
	if p.repair == another {
		first.start(t).serves(t)
	}
	eventually(t, 20*time.Second, func() error {
		left, err := filepath.Glob(filepath.Join(first.dir, "spool", "*"))
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("the spool still holds %v", left)
		}
		return err
	})
	if t.Failed() {
		t.Log(fl.story(alice.key.String()))
	}
}

// listen returns the highest version that bumps have named.
func (fl *fleet) listen(key account.Key) *atomic.Int64 {
	fl.t.Helper()
	var version atomic.Int64
	_, err := fl.operator.Subscribe(fl.subjects.Bump(key), func(m *nats.Msg) {
		if e, err := events.DecodeBump(m.Data); err == nil && int64(e.Version) > version.Load() {
			version.Store(int64(e.Version))
		}
	})
	if err != nil {
		fl.t.Fatal(err)
	}
	if err := fl.operator.Flush(); err != nil {
		fl.t.Fatal(err)
	}
	return &version
}

// crashDuringRotation makes the worker refresh and waits for its end.
func (fl *fleet) crashDuringRotation(l *login, p point, dying *process) {
	fl.t.Helper()
	var late *order
	release := make(chan struct{})
	if p.name == "journaled" { // only where the store can't be written
		late = newOrder(hold, "", "")
		late.release = release
		fl.front.arm(late)
	}
	fl.ask(l.key)
	if late != nil {
		<-late.taken
		fl.cutStore(dying.worker)
		close(release)
		defer fl.healStore(dying.worker)
	}
	if !dying.crashes(30 * time.Second) {
		fl.t.Fatalf("no crash at %s:\n%s", p.name, dying.text())
	}
}

// ask sends a token request, and waits for no reply: it may die with the
// worker.
func (fl *fleet) ask(key account.Key) {
	fl.t.Helper()
	err := fl.gateway.PublishRequest(fl.subjects.Request(key), fl.gateway.NewRespInbox(), events.TokenRequest{}.Encode())
	if err == nil {
		err = fl.gateway.Flush()
	}
	if err != nil {
		fl.t.Fatal(err)
	}
}

func (fl *fleet) cutStore(w *worker) {
	if fl.mongo != nil {
		fl.mongo.Cut()
		return
	}
	fl.natsOf[w.name].Cut()
}

func (fl *fleet) healStore(w *worker) {
	if fl.mongo != nil {
		fl.mongo.Restore()
	}
	fl.natsOf[w.name].Restore()
}

// lives asks for a token while the account is in doubt.
func (fl *fleet) lives(l *login) {
	fl.t.Helper()
	token, err := fl.asker.Token(fl.t.Context(), l.key)
	if err != nil {
		fl.t.Errorf("no token though the old one lives: %v", err)
	} else if token.Version != 1 && token.Version != 2 {
		fl.t.Errorf("version %d", token.Version)
	}
}

// repaired waits until the account is as it must be in the end. All the time
// there is a living token, and it is served.
func (fl *fleet) repaired(l *login, p point, bumped *atomic.Int64) {
	fl.t.Helper()
	defer func() {
		if fl.t.Failed() {
			fl.t.Log(fl.story(l.key.String()))
		}
	}()
	eventually(fl.t, 40*time.Second, func() error {
		fl.lives(l)
		a, err := fl.account(l.key)
		switch {
		case err != nil:
			return err
		case p.lost && a.Status == account.ReauthRequired:
			if a.Version != 1 || a.LastError == nil || a.LastError.Code != events.StatusRotationLost {
				fl.t.Fatalf("version %d, error %+v; want version 1, %s", a.Version, a.LastError, events.StatusRotationLost)
			}
			return nil
		case p.lost:
			return fmt.Errorf("status %s, want %s", a.Status, account.ReauthRequired)
		case a.Status != account.Active || strings.Contains(fmt.Sprint(a.LastError), events.StatusRotationLost):
			fl.t.Fatalf("status %s, error %+v", a.Status, a.LastError)
		case a.Version != 2 || a.Rotation != nil:
			return fmt.Errorf("version %d, rotation %+v; want 2 and none", a.Version, a.Rotation)
		case bumped.Load() != 2:
			return errors.New("nobody was told of version 2")
		}
		token, err := fl.asker.Token(fl.t.Context(), l.key)
		if err == nil && (token.Version != 2 || !fl.accepted(l, token.AccessToken())) {
			err = fmt.Errorf("version %d is served, or the endpoint does not take it", token.Version)
		}
		return err
	})
}
