package mongostore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/internal/rig/opmsg"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/ledger/storetest"
	"github.com/tokenbus/tokenbus/mongostore"
)

// faults are the ways in which a command fails in a replica set whose primary
// changes, with what the driver needs to repeat it.
var faults = []struct {
	name  string
	fault opmsg.Fault
}{
	{"not primary", opmsg.Fault{Answer: opmsg.Refuse(10107, "NotWritablePrimary", opmsg.RetryableWrite)}},
	{"not primary, no secondary", opmsg.Fault{Answer: opmsg.Refuse(13435, "NotPrimaryNoSecondaryOk", opmsg.RetryableWrite)}},
	{"interrupted by a step-down", opmsg.Fault{Answer: opmsg.Refuse(11602, "InterruptedDueToReplStateChange", opmsg.RetryableWrite)}},
	{"shutting down", opmsg.Fault{Answer: opmsg.Refuse(91, "ShutdownInProgress", opmsg.RetryableWrite)}},
	{"connection lost", opmsg.Fault{}},
	{"done, and stepped down", opmsg.Fault{Done: true, Answer: opmsg.Refuse(189, "PrimarySteppedDown", opmsg.RetryableWrite)}},
	{"done, and interrupted by a step-down", opmsg.Fault{Done: true, Answer: opmsg.Refuse(11602, "InterruptedDueToReplStateChange", opmsg.RetryableWrite)}},
	{"done, and shutting down before a majority has it", opmsg.Fault{Done: true, Answer: opmsg.Unconfirmed(91, "ShutdownInProgress", opmsg.RetryableWrite)}},
	{"done, and connection lost", opmsg.Fault{Done: true}},
}

// TestStoreThroughStepDowns: while commands keep failing, the store is the
// same. The driver repeats them, and the server recognizes what it has done.
func TestStoreThroughStepDowns(t *testing.T) {
	// After each the driver needs half a second to find the primary again.
	due := func(i int64) bool { return i%101 == 50 || i < 30 && i%7 == 3 }
	var kind atomic.Int64
	storetest.Run(t, func(t *testing.T) ledger.Store {
		p, uri := behind(t, opmsg.Config{ReplicaSet: "rs0"})
		s := open(t, mongostore.Config{URL: uri, Timeout: time.Minute})
		if err := s.EnsureIndexes(t.Context()); err != nil {
			t.Fatal(err)
		}
		var n, failed atomic.Int64
		var repeats sync.Map // the commands that failed: the driver repeats each, and only once
		p.Each(func(c opmsg.Command) *opmsg.Fault {
			switch c.Name {
			case "find", "insert", "findAndModify":
			default:
				return nil
			}
			command := fmt.Sprint(c.Body.Lookup("lsid"), c.Body.Lookup("txnNumber"))
			if _, repeated := repeats.LoadAndDelete(command); repeated || !due(n.Add(1)) {
				return nil
			}
			repeats.Store(command, true)
			f := faults[kind.Add(1)%int64(len(faults))].fault
			if c.Name == "find" && f.Done {
				return &opmsg.Fault{} // a read has nothing that a majority must confirm
			}
			failed.Add(1)
			return &f
		})
		t.Cleanup(func() { t.Logf("%d of %d commands failed", failed.Load(), n.Load()) })
		return s
	})
}

// TestRepeatedOnce: a command that fails is repeated, and however often it was
// carried out it takes effect once.
func TestRepeatedOnce(t *testing.T) {
	for i, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			p, uri := behind(t, opmsg.Config{ReplicaSet: "rs0"})
			s := open(t, mongostore.Config{URL: uri, Timeout: time.Minute})
			a := testAccount(fmt.Sprint("a", i))
			p.Next(1, "insert", f.fault)
			if err := s.Create(t.Context(), a); err != nil {
				t.Fatal(err)
			}
			if err := s.Create(t.Context(), a); !errors.Is(err, ledger.ErrConflict) {
				t.Errorf("second Create: got error %v, want %q", err, ledger.ErrConflict)
			}
			p.Next(2, "findAndModify", f.fault)
			got, err := s.Update(t.Context(), a.Key, account.Guard{Rev: 1}, account.Change{BumpRev: true, At: time.Now()})
			if err != nil || got.Rev != 2 {
				t.Errorf("Update: rev %d, %v, want 2", got.Rev, err)
			}
			p.Next(1, "findAndModify", f.fault)
			_, err = s.Update(t.Context(), a.Key, account.Guard{Rev: 1}, account.Change{BumpRev: true, At: time.Now()})
			if !errors.Is(err, ledger.ErrConflict) {
				t.Errorf("Update with an old guard: got error %v, want %q", err, ledger.ErrConflict)
			}
			if got, err = s.Get(t.Context(), a.Key); err != nil || got.Rev != 2 {
				t.Errorf("Get: rev %d, %v, want 2", got.Rev, err)
			}
			if inserts, updates := p.Seen("insert"), p.Seen("findAndModify"); inserts != 3 || updates != 5 {
				t.Errorf("%d inserts and %d updates were sent, want 3 and 5", inserts, updates)
			}
		})
	}
}

// TestUnknownOutcome: a write that may have happened is never reported as
// certain, where nothing is repeated: on a standalone server, with
// retryWrites=false, and after errors that no repeat can mend.
func TestUnknownOutcome(t *testing.T) {
	type outcome struct {
		name  string
		fault opmsg.Fault
	}
	all := []outcome{
		{"done, and no majority in time", opmsg.Fault{Done: true, Answer: opmsg.Unconfirmed(64, "WriteConcernTimeout")}},
		{"done, and too few members", opmsg.Fault{Done: true, Answer: opmsg.Unconfirmed(100, "UnsatisfiableWriteConcern")}},
		{"done, and an error that nobody knows", opmsg.Fault{Done: true, Answer: opmsg.Refuse(8, "UnknownError")}},
		{"the server's time is up", opmsg.Fault{Answer: opmsg.Refuse(50, "MaxTimeMSExpired")}},
	}
	for _, f := range faults {
		all = append(all, outcome{f.name, f.fault})
	}
	for name, c := range map[string]struct {
		cfg      opmsg.Config
		query    string
		outcomes []outcome
	}{
		"standalone":        {opmsg.Config{}, "", all},
		"retryWrites=false": {opmsg.Config{ReplicaSet: "rs0"}, "?retryWrites=false", all},
		"replica set":       {opmsg.Config{ReplicaSet: "rs0"}, "", all[:4]},
	} {
		for _, o := range c.outcomes {
			t.Run(name+", "+o.name, func(t *testing.T) {
				t.Parallel()
				p, uri := behind(t, c.cfg)
				s := open(t, mongostore.Config{URL: uri + c.query, Timeout: time.Minute})
				a := testAccount("a")
				unknown := func(what string, err error) {
					t.Helper()
					if err == nil || errors.Is(err, ledger.ErrConflict) || errors.Is(err, ledger.ErrNotFound) || mongostore.Final(err) {
						t.Errorf("%s: got error %v, want one that leaves the outcome open", what, err)
					}
				}
				p.Next(1, "insert", o.fault)
				unknown("Create", s.Create(t.Context(), a))
				if _, err := s.Get(t.Context(), a.Key); (err == nil) != o.fault.Done {
					t.Errorf("Get after Create: %v, want written %v", err, o.fault.Done)
				}
				if !o.fault.Done {
					if err := s.Create(t.Context(), a); err != nil {
						t.Fatal(err)
					}
				}

				bump := account.Change{BumpRev: true, At: time.Now()}
				p.Next(1, "findAndModify", o.fault)
				_, err := s.Update(t.Context(), a.Key, account.Guard{Rev: 1}, bump)
				unknown("Update", err)
				got, err := s.Get(t.Context(), a.Key)
				if err != nil || (got.Rev == 2) != o.fault.Done {
					t.Errorf("Get after Update: rev %d, %v, want written %v", got.Rev, err, o.fault.Done)
				}

				// Even where the guard doesn't hold, or the document exists, a
				// primary that can't have a majority proves nothing.
				p.Next(1, "findAndModify", o.fault)
				_, err = s.Update(t.Context(), a.Key, account.Guard{Rev: 77}, bump)
				unknown("Update with a guard that doesn't hold", err)
				p.Next(1, "insert", o.fault)
				unknown("Create of what exists", s.Create(t.Context(), a))
				if n := p.Seen("insert") + p.Seen("findAndModify"); n != 4 && (o.fault.Done || n != 5) {
					t.Errorf("%d writes were sent: something was repeated", n)
				}
			})
		}
	}
}

// TestBlackHole: a server from which nothing comes back costs a call its
// timeout and no more, whatever the driver's own patience is, also if nobody
// bounds the call.
func TestBlackHole(t *testing.T) {
	for _, c := range []struct {
		name string
		warm bool
	}{{"from the start", false}, {"in the middle", true}} {
		t.Run(c.name, func(t *testing.T) {
			p := proxied(t)
			cfg := mongostore.Config{URL: p.url, Timeout: 300 * time.Millisecond}
			if !c.warm {
				p.Freeze()
			}
			s, err := mongostore.Open(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			a := testAccount("a")
			if c.warm {
				for end := time.Now().Add(time.Minute); s.Ping(t.Context()) != nil; {
					if time.Now().After(end) {
						t.Fatal("the server doesn't answer")
					}
				}
				p.Freeze()
			}
			// Not the test's context: none of these has a deadline.
			ctx := context.Background()
			for name, call := range map[string]func() error{
				"Ping":          func() error { return s.Ping(ctx) },
				"Get":           func() error { _, err := s.Get(ctx, a.Key); return err },
				"Create":        func() error { return s.Create(ctx, a) },
				"Update":        func() error { _, err := s.Update(ctx, a.Key, account.Guard{}, account.Change{}); return err },
				"Due":           func() error { _, err := s.Due(ctx, time.Now(), 1); return err },
				"Pending":       func() error { _, err := s.Pending(ctx, 1); return err },
				"List":          func() error { _, err := s.List(ctx, ledger.ListQuery{Limit: 1}); return err },
				"CheckValue":    func() error { _, err := s.CheckValue(ctx, "x", []byte("x")); return err },
				"EnsureIndexes": func() error { return s.EnsureIndexes(ctx) },
			} {
				began := time.Now()
				err := call()
				if took := time.Since(began); took > 4*time.Second { // below DefaultTimeout, and far below the driver's 30 s
					t.Errorf("%s took %v", name, took)
				}
				if err == nil || mongostore.Final(err) || errors.Is(err, ledger.ErrConflict) || errors.Is(err, ledger.ErrNotFound) {
					t.Errorf("%s: got error %v, want one that may end", name, err)
				}
			}
			began := time.Now()
			stop, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			_ = s.Close(stop) // it may say that something was cut off
			if took := time.Since(began); took > 8*time.Second {
				t.Errorf("Close took %v", took)
			}
		})
	}
}

// TestGoneServer: a server that doesn't answer any more is given up in less
// time than the driver's own patience of 30 s, and then the error says so.
func TestGoneServer(t *testing.T) {
	t.Parallel()
	p := proxied(t)
	s := open(t, mongostore.Config{URL: p.url, Timeout: 300 * time.Millisecond})
	p.Freeze()
	for began := time.Now(); ; {
		err := s.Ping(t.Context())
		if err != nil && strings.Contains(err.Error(), "MongoDB is out of reach: "+p.Addr()+": no answer") {
			return
		}
		if time.Since(began) > 25*time.Second {
			t.Fatalf("after %v: %v", time.Since(began), err)
		}
	}
}
