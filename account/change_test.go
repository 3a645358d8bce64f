package account_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
)

func key(t testing.TB, text string) account.Key {
	t.Helper()
	k, err := account.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// full returns an account in which every field differs from the zero value,
// and from another n.
func full(t testing.TB, n int) account.Account {
	t.Helper()
	text := string(rune('a' + n))
	at := time.UnixMilli(int64(1000 * (n + 1))).UTC()
	return account.Account{
		Key: key(t, "acme."+text), Type: text, Label: text, Status: account.Status(text), Version: account.Version(n + 1), Rev: account.Rev(n + 10),
		AnnouncePending: n%2 == 0, Reason: text, Credentials: []byte(text),
		Fingerprints: account.Fingerprints{Access: text, Refresh: text, Spent: []string{text}, Dead: text},
		IssuedAt:     at, ExpiresAt: at, Lifetime: time.Duration(n + 1), RefreshAt: at, EarliestRefreshAt: at,
		Rotation:       &account.Rotation{ID: text, Worker: text, Host: text, State: account.RotationBegun, FromVersion: 1, StartedAt: at, Heartbeat: int64(n + 1), LeaseTTL: 1, Attempts: 1},
		LastRotationID: text, ForcedStreak: n + 1, CooldownUntil: at, Failures: n + 1, LastError: &account.LastError{Code: text, Message: text, At: at},
		DeletedAt: at, CreatedAt: at, UpdatedAt: at, SchemaVersion: 100 + n,
	}
}

// changed returns the names of the fields in which a and b differ.
func changed(a, b account.Account) []string {
	var names []string
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range va.NumField() {
		if !reflect.DeepEqual(va.Field(i).Interface(), vb.Field(i).Interface()) {
			names = append(names, va.Type().Field(i).Name)
		}
	}
	return names
}

var groups = map[account.Fields][]string{
	0:                         {},
	account.FieldVersion:      {"Version"},
	account.FieldCredentials:  {"Type", "Credentials", "IssuedAt", "ExpiresAt", "Lifetime", "EarliestRefreshAt"},
	account.FieldFingerprints: {"Fingerprints"},
	account.FieldRotation:     {"Rotation"},
	account.FieldLastRotation: {"LastRotationID"},
	account.FieldStatus:       {"Status"},
	account.FieldFailure:      {"CooldownUntil", "Failures", "LastError"},
	account.FieldForced:       {"ForcedStreak"},
	account.FieldRefreshAt:    {"RefreshAt"},
	account.FieldLabel:        {"Label"},
	account.FieldAnnounce:     {"AnnouncePending", "Reason"},
	account.FieldDeleted:      {"DeletedAt"},
	account.FieldRev:          {"Rev"},
}

func TestApplyWritesItsGroupsOnly(t *testing.T) {
	at := time.UnixMilli(99).UTC()
	for fields, want := range groups {
		a, to := full(t, 0), full(t, 1)
		account.Change{Fields: fields, To: to, At: at}.Apply(&a)
		got := changed(full(t, 0), a)
		want = append(slices.Clone(want), "UpdatedAt", "SchemaVersion") // written always
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("group %b changes %v, want %v", fields, got, want)
		}
		if !a.UpdatedAt.Equal(at) || a.SchemaVersion != account.SchemaVersion {
			t.Errorf("group %b: updated_at %v, schema_version %d", fields, a.UpdatedAt, a.SchemaVersion)
		}
		if stays := changed(to, a); slices.ContainsFunc(groups[fields], func(name string) bool { return slices.Contains(stays, name) }) {
			t.Errorf("group %b: the values aren't those of To: %v", fields, stays)
		}
	}
}

// TestEveryFieldHasAGroup: a document field that no change can write would
// silently stay as it is. Key and CreatedAt are set once.
func TestEveryFieldHasAGroup(t *testing.T) {
	all := []string{"Key", "CreatedAt", "UpdatedAt", "SchemaVersion"}
	for _, names := range groups {
		all = append(all, names...)
	}
	for f := range reflect.TypeFor[account.Account]().Fields() {
		if !slices.Contains(all, f.Name) {
			t.Errorf("field %s belongs to no group", f.Name)
		}
	}
	if a := full(t, 0); true {
		v := reflect.ValueOf(a)
		for i := range v.NumField() {
			if v.Field(i).IsZero() {
				t.Errorf("the test's account leaves %s empty", v.Type().Field(i).Name)
			}
		}
	}
}

func TestApplyBumpsRev(t *testing.T) {
	a := full(t, 0)
	account.Change{BumpRev: true, To: full(t, 1)}.Apply(&a)
	if a.Rev != 11 {
		t.Errorf("rev = %d, want 11", a.Rev)
	}
}

func TestApplySharesNothing(t *testing.T) {
	a, to := full(t, 0), full(t, 1)
	account.Change{Fields: account.FieldCredentials | account.FieldFingerprints | account.FieldRotation | account.FieldFailure, To: to}.Apply(&a)
	to.Credentials[0], to.Fingerprints.Spent[0], to.Rotation.ID, to.LastError.Code = 'X', "X", "X", "X"
	if a.Credentials[0] == 'X' || a.Fingerprints.Spent[0] == "X" || a.Rotation.ID == "X" || a.LastError.Code == "X" {
		t.Error("the document shares memory with the change")
	}
}

func TestGuard(t *testing.T) {
	a := full(t, 0) // version 1, rev 10, rotation "a" with heartbeat 1
	idle := full(t, 0)
	idle.Rotation = nil
	for name, tc := range map[string]struct {
		guard      account.Guard
		busy, idle bool
	}{
		"zero":                         {account.Guard{}, true, true},
		"version":                      {account.Guard{Version: 1}, true, true},
		"other version":                {account.Guard{Version: 2}, false, false},
		"rev":                          {account.Guard{Rev: 10}, true, true},
		"other rev":                    {account.Guard{Rev: 9}, false, false},
		"version, other rev":           {account.Guard{Version: 1, Rev: 9}, false, false},
		"no rotation":                  {account.Guard{Rotation: account.NoRotation()}, false, true},
		"rotation":                     {account.Guard{Rotation: new("a")}, true, false},
		"other rotation":               {account.Guard{Rotation: new("b")}, false, false},
		"rotation and heartbeat":       {account.Guard{Rotation: new("a"), Heartbeat: new(int64(1))}, true, false},
		"rotation, other heartbeat":    {account.Guard{Rotation: new("a"), Heartbeat: new(int64(2))}, false, false},
		"rotation, heartbeat of zero":  {account.Guard{Rotation: new("a"), Heartbeat: new(int64(0))}, false, false},
		"no rotation, and a heartbeat": {account.Guard{Rotation: account.NoRotation(), Heartbeat: new(int64(1))}, false, true},
		"heartbeat without rotation":   {account.Guard{Heartbeat: new(int64(2))}, true, true},
		"all":                          {account.Guard{Version: 1, Rev: 10, Rotation: new("a"), Heartbeat: new(int64(1))}, true, false},
		"all but the version":          {account.Guard{Version: 3, Rev: 10, Rotation: new("a"), Heartbeat: new(int64(1))}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tc.guard.Holds(&a); got != tc.busy {
				t.Errorf("with a rotation: %v", got)
			}
			if got := tc.guard.Holds(&idle); got != tc.idle {
				t.Errorf("without a rotation: %v", got)
			}
		})
	}
}

func TestCloneSharesNothing(t *testing.T) {
	a := full(t, 0)
	b := a.Clone()
	if names := changed(a, b); len(names) > 0 {
		t.Errorf("the clone differs in %v", names)
	}
	b.Credentials[0], b.Fingerprints.Spent[0], b.Rotation.ID, b.LastError.Code = 'X', "X", "X", "X"
	if names := changed(full(t, 0), a); len(names) > 0 {
		t.Errorf("a change of the clone changed %v", names)
	}
	if names := changed(account.Account{}, account.Account{}.Clone()); len(names) > 0 {
		t.Errorf("the clone of nothing has %v", names)
	}
}

func TestAccountAsJSON(t *testing.T) {
	a := full(t, 0)
	data, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	var b account.Account
	if err := json.Unmarshal(data, &b); err != nil {
		t.Fatal(err)
	}
	if names := changed(a, b); len(names) > 0 {
		t.Errorf("%v came back otherwise: %s", names, data)
	}
	if !a.Deleted() || (&account.Account{}).Deleted() || !a.HasRefreshToken() || (&account.Account{}).HasRefreshToken() {
		t.Error("Deleted or HasRefreshToken is wrong")
	}
}

func TestWithSpent(t *testing.T) {
	f := account.Fingerprints{}
	for i := range account.MaxSpent + 3 {
		before := slices.Clone(f.Spent)
		next := f.WithSpent(string(rune('A' + i)))
		if !slices.Equal(before, f.Spent) {
			t.Fatal("WithSpent changed its receiver")
		}
		f = next
	}
	if len(f.Spent) != account.MaxSpent || f.Spent[0] != "S" || f.Spent[account.MaxSpent-1] != "D" {
		t.Errorf("Spent = %v, want the newest %d first", f.Spent, account.MaxSpent)
	}
	if got := f.WithSpent("E"); !slices.Equal(got.Spent, f.Spent) {
		t.Errorf("a known one: %v", got.Spent)
	}
	if got := f.WithSpent(""); !slices.Equal(got.Spent, f.Spent) {
		t.Errorf("none: %v", got.Spent)
	}
}
