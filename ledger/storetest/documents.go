package storetest

import (
	"fmt"
	"time"

	"github.com/tokenbus/tokenbus/account"
)

// Full returns a document in which every field is set, to values that depend
// on n, with times at millisecond precision.
func Full(key account.Key, n int) account.Account {
	at := func(minutes int) time.Time {
		return time.Date(2031, 2, 3, 4, 5, 6, (100+n)*int(time.Millisecond), time.UTC).Add(time.Duration(n*100+minutes) * time.Minute)
	}
	text := func(s string) string { return fmt.Sprintf("%s-%d", s, n) }
	return account.Account{
		Key: key, Type: text("oauth"), Label: text(`label "é" <&>`), Status: account.ReauthRequired,
		Version: account.Version(n), Rev: account.Rev(1<<40 + n),
		AnnouncePending: true, Reason: text("reason"),
		Credentials:  []byte{0, byte(n), 0xff, 0xfe, '"', '\\', 0x80},
		Fingerprints: account.Fingerprints{Access: text("fa"), Refresh: text("fr"), Spent: []string{text("s1"), text("s2")}, Dead: text("fd")},
		IssuedAt:     at(1), ExpiresAt: at(2), Lifetime: time.Duration(n)*time.Hour + 250*time.Millisecond,
		RefreshAt: at(3), EarliestRefreshAt: at(4),
		Rotation: &account.Rotation{
			ID: text("rotation"), Worker: text("worker"), Host: text("host"), State: account.RotationInDoubt,
			FromVersion: account.Version(n), StartedAt: at(5), Heartbeat: int64(10 + n),
			LeaseTTL: time.Duration(n) * time.Second, Attempts: 1 + n, FirstStartedAt: at(11), NoAnswer: true, EarlierOpen: true,
		},
		LastRotationID: text("last"), ForcedStreak: 2 + n,
		CooldownUntil: at(6), Failures: 3 + n,
		LastError: &account.LastError{Code: text("code"), Message: text("message"), At: at(7)},
		DeletedAt: at(8), CreatedAt: at(9), UpdatedAt: at(10), SchemaVersion: account.SchemaVersion,
	}
}

// Minimal returns the document of an active account with little in it: every
// time that may be absent is zero.
func Minimal(key account.Key) account.Account {
	return account.Account{
		Key: key, Type: "oauth", Status: account.Active, Version: 1, Rev: 1,
		CreatedAt: now(), UpdatedAt: now(), SchemaVersion: account.SchemaVersion,
	}
}

func withCredentials(a account.Account, n int) account.Account {
	a.Credentials = make([]byte, n)
	for i := range a.Credentials {
		a.Credentials[i] = byte(i * 7)
	}
	return a
}

func withTimes(key account.Key) account.Account {
	a := Minimal(key)
	a.IssuedAt = time.UnixMilli(1).UTC()
	a.ExpiresAt = time.Date(2099, 12, 31, 23, 59, 59, 999e6, time.UTC)
	a.RefreshAt = time.Date(1969, 12, 31, 23, 59, 59, 1e6, time.UTC)
	return a
}

func tombstone(key account.Key) account.Account {
	a := Minimal(key)
	a.DeletedAt = now()
	return a
}

// now returns the time at the precision that documents have.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

func mustKey(platform, id string) account.Key {
	k, err := account.NewKey(platform, id)
	if err != nil {
		panic(err)
	}
	return k
}
