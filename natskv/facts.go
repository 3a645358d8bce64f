package natskv

import (
	"math"
	"strconv"
	"strings"

	"github.com/tokenbus/tokenbus/account"
)

// headerFacts is the header of a document that holds its facts, so that the
// index is built from headers alone.
const headerFacts = "Tokenbus-Facts"

// never is the refreshAt of a document without one.
const never = math.MaxInt64

// facts are what the index knows of a document.
type facts struct {
	refreshAt int64 // Unix milliseconds, or never
	status    account.Status
	pending   bool
	deleted   bool
}

func factsOf(a account.Account) facts {
	f := facts{refreshAt: never, status: a.Status, pending: a.AnnouncePending, deleted: a.Deleted()}
	if !a.RefreshAt.IsZero() {
		f.refreshAt = a.RefreshAt.UnixMilli()
	}
	return f
}

// due reports whether the document is refreshed at refreshAt.
func (f facts) due() bool {
	return f.refreshAt != never && f.status == account.Active && !f.deleted
}

// listed reports whether List may return the document.
func (f facts) listed() bool { return !f.deleted }

// encode returns "1 <status> <refreshAt or -> <flags or ->".
func (f facts) encode() string {
	at, flags := "-", ""
	if f.refreshAt != never {
		at = strconv.FormatInt(f.refreshAt, 10)
	}
	for _, flag := range []struct {
		set  bool
		name string
	}{{f.pending, "p"}, {f.deleted, "d"}} {
		if flag.set {
			flags += flag.name
		}
	}
	if flags == "" {
		flags = "-"
	}
	return "1 " + string(f.status) + " " + at + " " + flags
}

// decodeFacts reads what encode wrote. Anything else is false: then the
// document itself must be read.
func decodeFacts(text string) (facts, bool) {
	parts := strings.Split(text, " ")
	if len(parts) != 4 || parts[0] != "1" {
		return facts{}, false
	}
	f := facts{refreshAt: never}
	// The constants, for a status that is cut from the header would keep all
	// of it in memory.
	switch s := account.Status(parts[1]); s {
	case account.Active:
		f.status = account.Active
	case account.Disabled:
		f.status = account.Disabled
	case account.ReauthRequired:
		f.status = account.ReauthRequired
	default:
		return facts{}, false
	}
	if parts[2] != "-" {
		at, err := strconv.ParseInt(parts[2], 10, 64)
		if err != nil || at == never {
			return facts{}, false
		}
		f.refreshAt = at
	}
	if parts[3] != "-" {
		for _, c := range parts[3] {
			switch c {
			case 'p':
				f.pending = true
			case 'd':
				f.deleted = true
			default:
				return facts{}, false
			}
		}
	}
	return f, true
}
