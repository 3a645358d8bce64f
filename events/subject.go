package events

import (
	"fmt"
	"strings"

	"github.com/tokenbus/tokenbus/account"
)

// DefaultPrefix is the first token of every subject unless configured.
const DefaultPrefix = "tokenbus"

// Names of the streams, buckets and groups that the contract fixes.
const (
	StreamEvents = "TOKENBUS_EVENTS" // refreshed and status
	StreamBumps  = "TOKENBUS_BUMPS"  // the last bump of each account
	QueueGroup   = "tokenbus"        // of the workers that answer requests
	AdminService = "tokenbus-admin"  // NATS micro service of the operators' verbs
)

// Subjects builds the subjects under one prefix. Use [NewSubjects].
type Subjects struct{ root string }

// NewSubjects returns the subjects under prefix, which is one or more subject
// tokens of [A-Za-z0-9_-] joined by dots.
func NewSubjects(prefix string) (Subjects, error) {
	for token := range strings.SplitSeq(prefix, ".") {
		if token == "" || strings.ContainsFunc(token, func(r rune) bool {
			return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '_' || r == '-')
		}) {
			return Subjects{}, fmt.Errorf("subject prefix %q: want subject tokens of A-Z, a-z, 0-9, _ and -, joined by dots", prefix)
		}
	}
	return Subjects{prefix + ".v1."}, nil
}

// Request is where a token of the account is asked for.
func (s Subjects) Request(key account.Key) string { return s.root + "request." + key.String() }

// AllRequests matches every request, also those whose key is none.
func (s Subjects) AllRequests() string { return s.root + "request.>" }

// ParseRequest returns the key that a request's subject names, or a
// [*account.KeyError].
func (s Subjects) ParseRequest(subject string) (account.Key, error) {
	rest, _ := strings.CutPrefix(subject, s.root+"request.")
	return account.ParseKey(rest)
}

// CatchUp is where the last bumps of the platform's accounts are asked for.
func (s Subjects) CatchUp(platform string) string { return s.root + "catchup." + platform }

// AllCatchUps matches the requests for last bumps of every platform.
func (s Subjects) AllCatchUps() string { return s.CatchUp("*") }

// Refreshed is where changed credentials are announced to workers.
func (s Subjects) Refreshed(key account.Key) string { return s.root + "refreshed." + key.String() }

// Bump is where a new rev of the account is broadcast.
func (s Subjects) Bump(key account.Key) string { return s.root + "bump." + key.String() }

// Status is where news about the account's status goes.
func (s Subjects) Status(key account.Key) string { return s.root + "status." + key.String() }

// AllRefreshed, AllBumps and AllStatus match the events of every account.
func (s Subjects) AllRefreshed() string { return s.root + "refreshed.>" }

// AllBumps matches the bumps of every account.
func (s Subjects) AllBumps() string { return s.root + "bump.>" }

// AllStatus matches the status events of every account.
func (s Subjects) AllStatus() string { return s.root + "status.>" }

// Admin is where the verb ("accounts.put") is asked for.
func (s Subjects) Admin(verb string) string { return s.root + "admin." + verb }
