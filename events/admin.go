package events

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/tokenbus/tokenbus/account"
)

// The admin verbs.
const (
	VerbPut        = "accounts.put"
	VerbPatch      = "accounts.patch"
	VerbGet        = "accounts.get"
	VerbList       = "accounts.list"
	VerbDelete     = "accounts.delete"
	VerbEnable     = "accounts.enable"
	VerbDisable    = "accounts.disable"
	VerbRefresh    = "accounts.refresh"
	VerbClearError = "accounts.clear_error"
	VerbJournal    = "journal.list"
)

// Bounds of accounts.list.
const (
	DefaultListLimit = 100
	MaxListLimit     = 1000
)

// PutRequest is the body of accounts.put. Credentials is the JSON object that
// [account.DecodeCredentials] reads; it is a secret in the clear.
type PutRequest struct {
	Platform    string           `json:"platform"`
	ID          string           `json:"id"`
	Type        string           `json:"type"`
	Label       *string          `json:"label,omitempty"`
	IfVersion   *account.Version `json:"if_version,omitempty"` // 0: only if there is no such account
	Credentials json.RawMessage  `json:"credentials"`
}

// Format implements [fmt.Formatter]: no verb prints the credentials.
func (r PutRequest) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "[%s of %q]", VerbPut, r.Platform+"."+r.ID)
}

// LogValue implements [slog.LogValuer].
func (r PutRequest) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(r)) }

// PatchRequest is the body of accounts.patch: what is absent stays, null
// removes.
type PatchRequest struct {
	Platform string                     `json:"platform"`
	ID       string                     `json:"id"`
	Label    *string                    `json:"label,omitempty"`
	ProxyURL json.RawMessage            `json:"proxy_url,omitempty"`
	Extra    map[string]json.RawMessage `json:"extra,omitempty"`
	// Credentials is another place for ProxyURL and Extra, laid out as in
	// PutRequest; token fields are refused.
	Credentials map[string]json.RawMessage `json:"credentials,omitempty"`
}

// Format implements [fmt.Formatter]: no verb prints a value, which may be a
// password.
func (r PatchRequest) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "[%s of %q]", VerbPatch, r.Platform+"."+r.ID)
}

// LogValue implements [slog.LogValuer].
func (r PatchRequest) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(r)) }

// KeyRequest is the body of every other verb on one account.
type KeyRequest struct {
	Platform string `json:"platform"`
	ID       string `json:"id"`
	Force    bool   `json:"force,omitempty"` // accounts.refresh: end a wait in doubt
}

// ListRequest is the body of accounts.list.
type ListRequest struct {
	Platform string         `json:"platform,omitempty"`
	Status   account.Status `json:"status,omitempty"`
	Limit    int            `json:"limit,omitempty"` // 0: DefaultListLimit
	Cursor   string         `json:"cursor,omitempty"`
}

// ListReply answers accounts.list.
type ListReply struct {
	Accounts   []Account `json:"accounts"`
	NextCursor string    `json:"next_cursor,omitempty"`
}

// Account is what an operator may see of an account: no secret.
type Account struct {
	Platform        string          `json:"platform"`
	ID              string          `json:"id"`
	Type            string          `json:"type"`
	Label           string          `json:"label,omitempty"`
	Status          account.Status  `json:"status"`
	Version         account.Version `json:"version"`
	ExpiresAt       time.Time       `json:"expires_at,omitzero"`
	RefreshAt       time.Time       `json:"refresh_at,omitzero"`
	CooldownUntil   time.Time       `json:"cooldown_until,omitzero"`
	Failures        int             `json:"failures"`
	LastError       *AccountError   `json:"last_error,omitempty"`
	Rotation        *Rotation       `json:"rotation,omitempty"`
	HasRefreshToken bool            `json:"has_refresh_token"`
	CreatedAt       time.Time       `json:"created_at"`
	UpdatedAt       time.Time       `json:"updated_at"`
}

// AccountError is the last error of an account.
type AccountError struct {
	Code    string    `json:"code"`
	Message string    `json:"message"`
	At      time.Time `json:"at"`
}

// Rotation is a rotation that runs or is in doubt.
type Rotation struct {
	State     account.RotationState `json:"state"`
	Worker    string                `json:"worker"`
	StartedAt time.Time             `json:"started_at"`
}

// Key returns the key of the account.
func (a Account) Key() account.Key { k, _ := account.NewKey(a.Platform, a.ID); return k }

// NewAccount returns what an operator may see of a.
func NewAccount(a account.Account) Account {
	v := Account{
		Platform: a.Key.Platform(), ID: a.Key.ID(), Type: a.Type, Label: a.Label, Status: a.Status, Version: a.Version,
		ExpiresAt: a.ExpiresAt.UTC().Truncate(time.Second), RefreshAt: a.RefreshAt.UTC().Truncate(time.Second),
		CooldownUntil: a.CooldownUntil.UTC(), Failures: a.Failures, HasRefreshToken: a.HasRefreshToken(),
		CreatedAt: a.CreatedAt.UTC(), UpdatedAt: a.UpdatedAt.UTC(),
	}
	if e := a.LastError; e != nil {
		v.LastError = &AccountError{e.Code, e.Message, e.At.UTC()}
	}
	if r := a.Rotation; r != nil {
		v.Rotation = &Rotation{r.State, r.Worker, r.StartedAt.UTC()}
	}
	return v
}

// DecodeRequest reads the body of an admin verb into its request type. An error is an [*Error] with [CodeBadRequest] that names the field.
func DecodeRequest[T PutRequest | PatchRequest | KeyRequest | ListRequest | JournalRequest](body []byte) (T, error) {
	var r T
	if len(body) == 0 {
		return r, nil
	}
	err := decode(body, &r)
	return r, err
}
