package provider_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/memory"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
	"github.com/tokenbus/tokenbus/provider"
	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/rotation"
)

// tornJournal has records that can't be read beside those that can.
type tornJournal struct {
	*memory.Journal
	torn error
}

func (j tornJournal) Records(ctx context.Context, key account.Key) ([]rotation.Record, error) {
	records, err := j.Journal.Records(ctx, key)
	return records, errors.Join(j.torn, err)
}

func TestJournalList(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	spool := tornJournal{&memory.Journal{}, errors.Join(
		&refresh.TornError{Key: key("torn"), Where: "/spool/torn", Err: errors.New("the file is empty")},
		&refresh.TornError{Where: "/spool/rubbish", Err: errors.New("no record")},
	)}
	p := f.worker(func(c *provider.Config) { c.Spool = spool })
	at := time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)
	foreign := rotation.Record{Key: key("foreign"), RotationID: "r1", FromVersion: 3, Worker: "w9", Host: "h9", At: at, Answer: []byte("SEALED")}
	for _, err := range []error{f.journal.Put(t.Context(), foreign), spool.Put(t.Context(), foreign)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	reply, err := p.JournalList(t.Context())
	if err != nil || reply.Worker != "w1" || len(reply.Records) != 4 {
		t.Fatalf("got %+v, %v", reply, err)
	}
	for i, want := range []struct{ id, where, problem string }{
		{"", "spool", "/spool/rubbish"}, {"foreign", "shared", "sealed"}, {"foreign", "spool", "sealed"}, {"torn", "spool", "/spool/torn"},
	} {
		r := reply.Records[i]
		if r.ID != want.id || string(r.Where) != want.where || r.Readable || !strings.Contains(r.Problem, want.problem) {
			t.Errorf("record %d is %+v, want %v", i, r, want)
		}
		if r.ID == "foreign" && (r.RotationID != "r1" || r.FromVersion != 3 || r.Worker != "w9" || r.Host != "h9" || !r.At.Equal(at)) {
			t.Errorf("record %d is %+v, want the facts of %+v", i, r, foreign)
		}
	}
	stop := running(t, p)
	eventually(t, "the sweep counts what it can't read", func() bool { return p.Stats().JournalUnreadable == 2 })
	stop()
	if out, err := json.Marshal(reply); err != nil || strings.Contains(string(out), "SEALED") || strings.Contains(string(out), "U0VBTEVE") {
		t.Errorf("%s (%v) shows the answer", out, err)
	}
}

// With a journal out of reach the other is still listed, and what is missing
// is told.
func TestJournalListWithoutTheSharedJournal(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	spool := &memory.Journal{}
	p := f.worker(func(c *provider.Config) { c.Spool = spool })
	if err := spool.Put(t.Context(), rotation.Record{Key: key("x"), RotationID: "r", FromVersion: 1, Answer: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	f.journal.Fault.Set(func(context.Context, string, account.Key) (bool, error) { return false, errors.New("bucket away") })
	reply, err := p.JournalList(t.Context())
	if err != nil || len(reply.Records) != 2 || reply.Records[0].Where != events.JournalShared || reply.Records[0].Problem != "bucket away" || reply.Records[1].ID != "x" {
		t.Errorf("got %+v, %v", reply, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = p.JournalList(ctx)
	if e, ok := errors.AsType[*events.Error](err); !ok || e.Code != events.CodeUnavailable {
		t.Errorf("for an asker who is gone: %v, want unavailable", err)
	}
}

// An answer that waits is listed as readable until it is in the store.
func TestP2JournalListShowsWhatWaits(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", -time.Minute)
	f.store.Fault.Set(func(_ context.Context, op string, _ account.Key) (bool, error) {
		if op == "Update" && f.endpoint.Exchanges() > 0 {
			return false, errors.New("the disk is full")
		}
		return true, nil
	})
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		_, _ = p.Token(t.Context(), key("x"), events.TokenRequest{})
	}()
	var reply events.JournalReply
	eventually(t, "the answer waits in both journals", func() bool {
		reply, _ = p.JournalList(t.Context())
		return len(reply.Records) == 2
	})
	for _, r := range reply.Records {
		if r.ID != "x" || r.FromVersion != 1 || !r.Readable || r.Problem != "" || r.Worker != "w1" || r.Host != "host" || r.At.IsZero() {
			t.Errorf("record is %+v", r)
		}
	}
	f.store.Fault.Set(nil)
	eventually(t, "nothing waits", func() bool {
		reply, _ := p.JournalList(t.Context())
		return len(reply.Records) == 0
	})
	<-asked
	if a := f.doc("x"); a.Version != 2 {
		t.Errorf("the store has version %d, want 2", a.Version)
	}
}
