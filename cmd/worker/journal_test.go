package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/ledger"
)

// journalOf asks as an operator what waits in the journals.
func journalOf(t *testing.T, conn *nats.Conn) (reply events.JournalReply, raw string) {
	t.Helper()
	subjects, err := events.NewSubjects(events.DefaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	m, err := conn.Request(subjects.Admin(events.VerbJournal), nil, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(m.Data, &reply); err != nil || m.Header.Get(events.HeaderErrorCode) != "" {
		t.Fatalf("journal.list: %s, %v", m.Data, err)
	}
	return reply, string(m.Data)
}

// An answer that the store refuses shows up in the journal, in both places,
// and is gone when the store has it.
func TestP2JournalShowsAnswerThatWaits(t *testing.T) {
	noLeaks(t)
	g := newGrant(t)
	var failing *failingStore
	workers := fleet(t, 1, map[string]string{"providers": g.providers}, hooks{store: func(s ledger.Store) ledger.Store {
		failing = &failingStore{Store: s, server: g.server}
		failing.left.Store(1 << 40)
		return failing
	}})
	defer halt(t, workers)
	w := workers[0]
	g.putAt(t, w, -time.Minute)
	conn, err := bus.Connect(bus.Config{URLs: []string{w.server.URL()}, NKey: w.server.KeyFile(bus.RoleOperator), InboxPrefix: bus.InboxPrefix(bus.RoleOperator)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if reply, _ := journalOf(t, conn); reply.Worker != "w1" || len(reply.Records) != 0 {
		t.Errorf("before anything happened: %+v", reply)
	}
	gw := gatewayOf(t, w)
	defer gw.Close()
	asked := make(chan error, 1)
	go func() { _, err := gw.Token(t.Context(), g.key); asked <- err }()
	eventually(t, func() error {
		reply, raw := journalOf(t, conn)
		if len(reply.Records) != 2 {
			return fmt.Errorf("want a record in each journal: %s", raw)
		}
		return nil
	})
	reply, raw := journalOf(t, conn)
	for i, where := range []events.JournalPlace{events.JournalShared, events.JournalSpool} {
		r := reply.Records[i]
		if r.Platform+"."+r.ID != g.key.String() || r.FromVersion != 1 || r.RotationID == "" || r.Worker != "w1" || r.Host == "" ||
			time.Since(r.At).Abs() > time.Minute || r.Where != where || !r.Readable || r.Problem != "" {
			t.Errorf("record is %+v, want a readable one in %s", r, where)
		}
	}
	if a := stored(t, w, g.key); a.Version != 1 {
		t.Errorf("the store has version %d already", a.Version)
	}
	access, refresh := g.server.Current(g.key.ID())
	if strings.Contains(raw, access) || strings.Contains(raw, refresh) || strings.Contains(raw, "answer") {
		t.Errorf("%s shows the answer", raw)
	}
	failing.left.Store(0)
	eventually(t, func() error {
		if _, raw := journalOf(t, conn); !strings.Contains(raw, `"records":[]`) {
			return fmt.Errorf("the record stays: %s", raw)
		}
		return nil
	})
	if a := stored(t, w, g.key); a.Version != 2 || a.Rotation != nil {
		t.Errorf("the store has version %d, rotation %+v; want 2 and none", a.Version, a.Rotation)
	}
	if err := <-asked; err != nil {
		t.Errorf("the gateway got %v", err)
	}
}

// A file in the spool that is no whole record is told, with its path.
func TestJournalShowsTornRecord(t *testing.T) {
	noLeaks(t)
	workers := fleet(t, 1, nil, hooks{})
	defer halt(t, workers)
	w := workers[0]
	path := filepath.Join(w.cfg.DataDir, "spool", "demo.bob.ROT1.json")
	if err := os.WriteFile(path, []byte(`{"key":"demo.bob","rotat`), 0o600); err != nil {
		t.Fatal(err)
	}
	conn, err := bus.Connect(bus.Config{URLs: []string{w.server.URL()}, NKey: w.server.KeyFile(bus.RoleOperator), InboxPrefix: bus.InboxPrefix(bus.RoleOperator)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	reply, raw := journalOf(t, conn)
	if len(reply.Records) != 1 {
		t.Fatalf("want one record: %s", raw)
	}
	if r := reply.Records[0]; r.ID != "bob" || r.Where != events.JournalSpool || r.Readable || !strings.Contains(r.Problem, path) {
		t.Errorf("record is %+v", r)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if reply, raw := journalOf(t, conn); len(reply.Records) != 0 {
			return errors.New(raw)
		}
		return nil
	})
}
