package events

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/tokenbus/tokenbus/account"
)

// Reason says why credentials changed.
type Reason string

// The reasons of a refreshed event.
const (
	ReasonExpiry   Reason = "expiry"   // ahead of need
	ReasonRequest  Reason = "request"  // because one asked
	ReasonRejected Reason = "rejected" // because the API answered 401
	ReasonForced   Reason = "forced"   // min_ttl, or an operator
	ReasonExternal Reason = "external" // a login, a patch, a change in the store
)

// Refreshed says that an account has new credentials.
type Refreshed struct {
	Key       account.Key
	Version   account.Version
	ExpiresAt time.Time
	Reason    Reason
	By        string // the worker
	At        time.Time
}

// Bump says that an account is now at this version and rev.
type Bump struct {
	Key     account.Key
	Version account.Version
	Rev     account.Rev
	At      time.Time
}

// Status says what happened to an account. Status is the account's own; Code
// says what happened.
type Status struct {
	Key     account.Key
	Status  account.Status
	Code    string
	Message string
	Until   time.Time // of a cool-down; zero otherwise
	At      time.Time
}

// Codes of status events, beside the OAuth error codes of endpoints.
const (
	StatusInDoubt        = "in_doubt"
	StatusCoolingDown    = "cooling_down"
	StatusRotationLost   = "rotation_lost"
	StatusSecondWriter   = "second_writer"
	StatusNoRefreshToken = "no_refresh_token"
	StatusStoreBehind    = "store_behind"
	StatusJournalBlocked = "journal_blocked"
	StatusEnabled        = "enabled"
	StatusDisabled       = "disabled"
	StatusCleared        = "cleared"
	StatusDeleted        = "deleted"
	StatusRecovered      = "recovered"
	// StatusRefreshing: an exchange begins that ends the old access token at
	// once; requests wait for it.
	StatusRefreshing = "refreshing"
)

type refreshedJSON struct {
	Platform  string          `json:"platform"`
	ID        string          `json:"id"`
	Version   account.Version `json:"version"`
	ExpiresAt string          `json:"expires_at,omitempty"`
	Reason    Reason          `json:"reason"`
	By        string          `json:"by"`
	At        timestamp       `json:"at"`
}

type bumpJSON struct {
	Platform string          `json:"platform"`
	ID       string          `json:"id"`
	Version  account.Version `json:"version"`
	Rev      account.Rev     `json:"rev"`
	At       timestamp       `json:"at"`
}

type statusJSON struct {
	Platform string         `json:"platform"`
	ID       string         `json:"id"`
	Status   account.Status `json:"status"`
	Code     string         `json:"code"`
	Message  string         `json:"message"`
	Until    timestamp      `json:"until,omitzero"`
	At       timestamp      `json:"at"`
}

// Encode returns the event's body.
func (e Refreshed) Encode() []byte {
	return encode(refreshedJSON{e.Key.Platform(), e.Key.ID(), e.Version, formatTime(e.ExpiresAt), e.Reason, e.By, newTimestamp(e.At)})
}

// Encode returns the event's body.
func (e Bump) Encode() []byte { return encode(e.json()) }

func (e Bump) json() bumpJSON {
	return bumpJSON{e.Key.Platform(), e.Key.ID(), e.Version, e.Rev, newTimestamp(e.At)}
}

// Encode returns the event's body.
func (e Status) Encode() []byte {
	return encode(statusJSON{e.Key.Platform(), e.Key.ID(), e.Status, e.Code, e.Message, newTimestamp(e.Until), newTimestamp(e.At)})
}

// MsgID is the Nats-Msg-Id under which the event is published once.
func (e Refreshed) MsgID() string {
	return e.Key.String() + ":" + strconv.FormatInt(int64(e.Version), 10)
}

// Header returns the event's CloudEvents headers; source is the worker.
func (e Refreshed) Header() map[string][]string {
	return cloudEvent("refreshed", e.MsgID(), e.By, e.At)
}

// Header returns the event's CloudEvents headers; source is the worker.
func (e Bump) Header(source string) map[string][]string {
	return cloudEvent("bump", e.Key.String()+":"+strconv.FormatInt(int64(e.Rev), 10), source, e.At)
}

// Header returns the event's CloudEvents headers; source is the worker.
func (e Status) Header(source string) map[string][]string {
	return cloudEvent("status", e.Key.String()+":"+e.Code+":"+strconv.FormatInt(e.At.UnixNano(), 10), source, e.At)
}

// cloudEvent returns the headers of CloudEvents 1.0 in binary mode, as its
// NATS protocol binding has them.
func cloudEvent(kind, id, source string, at time.Time) map[string][]string {
	return map[string][]string{
		"ce-specversion": {"1.0"},
		"ce-id":          {id},
		"ce-type":        {"dev.tokenbus." + kind + ".v1"},
		"ce-source":      {source},
		"ce-time":        {at.UTC().Format(time.RFC3339Nano)},
	}
}

// DecodeRefreshed reads a refreshed event.
func DecodeRefreshed(body []byte) (Refreshed, error) {
	var j refreshedJSON
	key, err := decodeEvent("refreshed", body, &j, func() (string, string) { return j.Platform, j.ID })
	if err != nil {
		return Refreshed{}, err
	}
	if j.Version < 0 {
		return Refreshed{}, fmt.Errorf("refreshed event of %s: version %d is out of range", key, j.Version)
	}
	expires, err := account.ParseTime(quote(j.ExpiresAt))
	if err != nil {
		return Refreshed{}, fmt.Errorf("refreshed event: expires_at: %w", err)
	}
	return Refreshed{key, j.Version, expires, j.Reason, j.By, j.At.Time}, nil
}

// DecodeBump reads a bump.
func DecodeBump(body []byte) (Bump, error) {
	var j bumpJSON
	if err := unmarshal(body, &j); err != nil {
		return Bump{}, fmt.Errorf("bump event: %w", err)
	}
	return j.bump()
}

func (j bumpJSON) bump() (Bump, error) {
	key, err := account.NewKey(j.Platform, j.ID)
	if err != nil {
		return Bump{}, fmt.Errorf("bump event: %w", err)
	}
	if j.Version < 1 || j.Rev < 0 {
		return Bump{}, fmt.Errorf("bump of %s: version %d and rev %d are out of range", key, j.Version, j.Rev)
	}
	return Bump{key, j.Version, j.Rev, j.At.Time}, nil
}

// DecodeStatus reads a status event.
func DecodeStatus(body []byte) (Status, error) {
	var j statusJSON
	key, err := decodeEvent("status", body, &j, func() (string, string) { return j.Platform, j.ID })
	if err != nil {
		return Status{}, err
	}
	return Status{key, j.Status, j.Code, j.Message, j.Until.Time, j.At.Time}, nil
}

func decodeEvent(kind string, body []byte, into any, id func() (string, string)) (account.Key, error) {
	if err := unmarshal(body, into); err != nil {
		return account.Key{}, fmt.Errorf("%s event: %w", kind, err)
	}
	platform, name := id()
	key, err := account.NewKey(platform, name)
	if err != nil {
		return account.Key{}, fmt.Errorf("%s event: %w", kind, err)
	}
	return key, nil
}

func encode(v any) []byte {
	out, err := json.Marshal(v)
	if err != nil {
		panic("events: " + err.Error()) // plain structs of strings, numbers and times of this era
	}
	return out
}
