package events_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

var update = flag.Bool("update", false, "rewrite testdata/*.golden")

// golden compares got with testdata/<name>.golden, byte for byte: the files
// are the wire contract, and programs outside this repository rest on it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	got = append(bytes.Clone(got), '\n')
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%swant\n%s", path, got, want)
	}
}

// headers writes a header set as lines of "name: value", sorted.
func headers(h map[string][]string) []byte {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(h)) {
		for _, v := range h[name] {
			lines = append(lines, name+": "+v)
		}
	}
	return []byte(strings.Join(lines, "\n"))
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var (
	key = func() account.Key {
		k, err := account.ParseKey("openai.user-1")
		if err != nil {
			panic(err)
		}
		return k
	}()
	// at is not UTC and has a fraction: the wire has neither where it says so.
	at = time.Date(2026, 3, 1, 13, 0, 0, 250_000_000, time.FixedZone("CET", 3600))
)

func hours(n int) time.Time { return at.Add(time.Duration(n) * time.Hour) }

func TestGoldenTokenRequest(t *testing.T) {
	golden(t, "request", events.TokenRequest{
		MinVersion: 7, MinTTL: 90 * time.Second, RejectedVersion: 6, KnownVersion: 5, Timeout: 20 * time.Second,
	}.Encode())
	for name, r := range map[string]events.TokenRequest{"zero": {}, "default timeout": {Timeout: events.DefaultTimeout}} {
		if got := r.Encode(); got != nil {
			t.Errorf("%s: %s, want an empty body", name, got)
		}
	}
}

func TestGoldenTokenReply(t *testing.T) {
	r := events.TokenReply{
		Key: key, Version: 7, AccessToken: account.NewSecret("eyJ.<&>.example"), TokenType: "Bearer", ExpiresAt: hours(1), Source: events.SourceShared,
		Extra: account.Extra{"chatgpt_account_id": json.RawMessage(`"ws-1"`), "plan_type": json.RawMessage(`"team"`)},
	}
	golden(t, "reply", r.Encode())
	golden(t, "reply_minimal", events.TokenReply{Key: key, Version: 1, AccessToken: account.NewSecret("t"), TokenType: "Bearer", Source: events.SourceL1}.Encode())
	r.NotModified = true
	golden(t, "reply_not_modified", r.Encode())
}

func TestGoldenErrors(t *testing.T) {
	for _, e := range []*events.Error{
		events.BadRequest("min_ttl: must not be negative"),
		{Code: events.CodeNotFound, Message: "no such account"},
		{Code: events.CodeDisabled, Message: "an operator disabled the account"},
		{Code: events.CodeReauthRequired, Message: "a person must log in again"},
		{Code: events.CodeCoolingDown, Message: "a refresh failed", RetryAfter: 12500 * time.Millisecond},
		{Code: events.CodeUnavailable, Message: "the store is out of reach", RetryAfter: time.Second},
		{Code: events.CodeTimeout, Message: "the refresh goes on"},
	} {
		golden(t, "error_"+string(e.Code), e.Encode())
		golden(t, "error_"+string(e.Code)+"_headers", headers(e.Header()))
	}
}

func TestGoldenEvents(t *testing.T) {
	refreshed := events.Refreshed{Key: key, Version: 8, ExpiresAt: hours(1), Reason: events.ReasonExpiry, By: "host-1-ab", At: at}
	golden(t, "refreshed", refreshed.Encode())
	golden(t, "refreshed_headers", headers(refreshed.Header()))
	golden(t, "refreshed_msgid", []byte(refreshed.MsgID()))
	refreshed.ExpiresAt = time.Time{}
	golden(t, "refreshed_no_expiry", refreshed.Encode())

	bump := events.Bump{Key: key, Version: 8, Rev: 11, At: at}
	golden(t, "bump", bump.Encode())
	golden(t, "bump_headers", headers(bump.Header("host-1-ab")))

	status := events.Status{Key: key, Status: account.Active, Code: events.StatusCoolingDown, Message: "http_503", Until: hours(2), At: at}
	golden(t, "status", status.Encode())
	golden(t, "status_headers", headers(status.Header("host-1-ab")))
	status.Until = time.Time{}
	golden(t, "status_no_until", status.Encode())
}

func TestGoldenCatchUp(t *testing.T) {
	golden(t, "catchup_request", events.CatchUpRequest{IDs: []string{"user-1", "user-2"}}.Encode())
	golden(t, "catchup_reply", events.CatchUpReply{Bumps: []events.Bump{{Key: key, Version: 8, Rev: 11, At: at}}}.Encode())
	golden(t, "catchup_reply_empty", events.CatchUpReply{}.Encode())
}

func TestGoldenAdmin(t *testing.T) {
	golden(t, "put", marshal(t, events.PutRequest{
		Platform: "openai", ID: "user-1", Type: "oauth", Label: new("team a"), IfVersion: new(account.Version(0)),
		Credentials: json.RawMessage(`{"access_token":"a","refresh_token":"r","expires_at":"2026-03-01T13:00:00Z"}`),
	}))
	golden(t, "put_minimal", marshal(t, events.PutRequest{Platform: "openai", ID: "user-1", Type: "oauth", Credentials: json.RawMessage(`{}`)}))
	golden(t, "patch", marshal(t, events.PatchRequest{
		Platform: "openai", ID: "user-1", Label: new(""), ProxyURL: json.RawMessage(`null`), Extra: map[string]json.RawMessage{"project_id": json.RawMessage(`"p"`)},
	}))
	golden(t, "key_request", marshal(t, events.KeyRequest{Platform: "openai", ID: "user-1"}))
	golden(t, "key_request_force", marshal(t, events.KeyRequest{Platform: "openai", ID: "user-1", Force: true}))
	golden(t, "list", marshal(t, events.ListRequest{Platform: "openai", Status: account.ReauthRequired, Limit: 10, Cursor: "openai.user-1"}))
	golden(t, "list_minimal", marshal(t, events.ListRequest{}))

	a := events.NewAccount(document())
	golden(t, "account", marshal(t, a))
	idle := events.NewAccount(account.Account{Key: key, Type: "oauth", Status: account.Active, Version: 1, CreatedAt: at, UpdatedAt: at})
	golden(t, "account_minimal", marshal(t, idle))
	golden(t, "list_reply", marshal(t, events.ListReply{Accounts: []events.Account{idle}, NextCursor: "openai.user-1"}))
	golden(t, "list_reply_empty", marshal(t, events.ListReply{Accounts: []events.Account{}}))
	if a.Key() != key {
		t.Errorf("Key = %v", a.Key())
	}
}

func TestGoldenJournal(t *testing.T) {
	golden(t, "journal_request", marshal(t, events.JournalRequest{}))
	golden(t, "journal_reply", marshal(t, events.NewJournalReply("host-1-ab", []events.JournalRecord{
		{Platform: "openai", ID: "user-1", RotationID: "rot-1", FromVersion: 7, Worker: "host-1-ab", Host: "host", At: at.UTC(), Where: events.JournalSpool, Readable: true},
		{Platform: "openai", ID: "user-1", RotationID: "rot-1", FromVersion: 7, Worker: "host-1-ab", Host: "host", At: at.UTC(), Where: events.JournalShared, Readable: true},
		{Platform: "openai", ID: "user-2", Where: events.JournalSpool, Problem: "journal record /data/spool/openai.user-2.rot-2.json: the file is empty"},
		{Where: events.JournalShared, Problem: "list > in bucket TOKENBUS_JOURNAL: timeout"},
	})))
	golden(t, "journal_reply_empty", marshal(t, events.NewJournalReply("host-1-ab", nil)))
}

// A reply must fit into a NATS message: what is left out is counted, and what
// has a problem is not left out.
func TestJournalReplyIsBounded(t *testing.T) {
	records := make([]events.JournalRecord, events.MaxJournalRecords+2)
	for i := range records {
		records[i] = events.JournalRecord{Platform: "openai", ID: fmt.Sprintf("user-%04d", i), Where: events.JournalShared, Readable: true}
	}
	records[len(records)-1].Problem = "torn"
	r := events.NewJournalReply("w", records)
	if len(r.Records) != events.MaxJournalRecords || r.More != 2 || r.Records[0].Problem != "torn" || r.Records[1].ID != "user-0000" {
		t.Errorf("%d records, %d more, the first %+v", len(r.Records), r.More, r.Records[0])
	}
}

// document is an account in which everything is set.
func document() account.Account {
	return account.Account{
		Key: key, Type: "oauth", Label: "team a", Status: account.ReauthRequired, Version: 7, Rev: 12, AnnouncePending: true, Reason: "expiry",
		Credentials:  []byte("SEALED"),
		Fingerprints: account.Fingerprints{Access: "FPA", Refresh: "FPR", Spent: []string{"FPS"}, Dead: "FPD"},
		IssuedAt:     at, ExpiresAt: hours(1), Lifetime: time.Hour, RefreshAt: hours(1).Add(-time.Minute), EarliestRefreshAt: at,
		Rotation:       &account.Rotation{ID: "rot-1", Worker: "host-1-ab", Host: "host", State: account.RotationInDoubt, FromVersion: 7, StartedAt: at, Heartbeat: 3, LeaseTTL: time.Minute, Attempts: 1},
		LastRotationID: "rot-0", ForcedStreak: 2, CooldownUntil: hours(2), Failures: 3,
		LastError: &account.LastError{Code: "invalid_grant", Message: "the grant is dead", At: at},
		CreatedAt: at, UpdatedAt: at, SchemaVersion: 1,
	}
}

// TestNoStrayGolden: a golden file that no test writes protects nothing.
func TestNoStrayGolden(t *testing.T) {
	var source []byte
	for _, name := range []string{"golden_test.go", "subject_test.go"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		source = append(source, text...)
	}
	files, err := filepath.Glob("testdata/*.golden")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files (%v)", err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".golden")
		if !strings.HasPrefix(name, "error_") && !bytes.Contains(source, []byte(`"`+name+`"`)) {
			t.Errorf("%s: no test writes it", f)
		}
	}
}
