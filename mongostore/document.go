package mongostore

import (
	"fmt"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/tokenbus/tokenbus/account"
)

// document is the form of an account in the collection.
type document struct {
	Key      string         `bson:"_id"`
	Platform string         `bson:"platform"`
	ID       string         `bson:"id"`
	Type     string         `bson:"type,omitempty"`
	Label    string         `bson:"label,omitempty"`
	Status   account.Status `bson:"status,omitempty"`
	Version  int64          `bson:"version"`
	Rev      int64          `bson:"rev"`

	AnnouncePending bool   `bson:"announce_pending,omitempty"`
	Reason          string `bson:"reason,omitempty"`

	Credentials       []byte       `bson:"credentials,omitempty"`
	Fingerprints      fingerprints `bson:"fingerprints,omitempty"`
	IssuedAt          time.Time    `bson:"issued_at,omitempty"`
	ExpiresAt         time.Time    `bson:"expires_at,omitempty"`
	Lifetime          duration     `bson:"lifetime,omitempty"`
	RefreshAt         time.Time    `bson:"refresh_at,omitempty"`
	EarliestRefreshAt time.Time    `bson:"earliest_refresh_at,omitempty"`

	Rotation       *rotation `bson:"rotation,omitempty"`
	LastRotationID string    `bson:"last_rotation_id,omitempty"`
	ForcedStreak   int64     `bson:"forced_streak,omitempty"`

	CooldownUntil time.Time  `bson:"cooldown_until,omitempty"`
	Failures      int64      `bson:"failures,omitempty"`
	LastError     *lastError `bson:"last_error,omitempty"`

	DeletedAt     time.Time `bson:"deleted_at,omitempty"`
	CreatedAt     time.Time `bson:"created_at,omitempty"`
	UpdatedAt     time.Time `bson:"updated_at,omitempty"`
	SchemaVersion int64     `bson:"schema_version"`
}

type fingerprints struct {
	Access  string   `bson:"access,omitempty"`
	Refresh string   `bson:"refresh,omitempty"`
	Spent   []string `bson:"spent,omitempty"`
	Dead    string   `bson:"dead,omitempty"`
}

// IsZero implements [bson.Zeroer].
func (f fingerprints) IsZero() bool {
	return f.Access == "" && f.Refresh == "" && len(f.Spent) == 0 && f.Dead == ""
}

type rotation struct {
	ID          string                `bson:"id"`
	Worker      string                `bson:"worker"`
	Host        string                `bson:"host"`
	State       account.RotationState `bson:"state"`
	FromVersion int64                 `bson:"from_version"`
	StartedAt   time.Time             `bson:"started_at,omitempty"`
	Heartbeat   int64                 `bson:"heartbeat"`
	LeaseTTL    duration              `bson:"lease_ttl"`
	Attempts    int64                 `bson:"attempts"`
	FirstStart  time.Time             `bson:"first_started_at,omitempty"`
	NoAnswer    bool                  `bson:"no_answer,omitempty"`
	EarlierOpen bool                  `bson:"earlier_open,omitempty"`
}

type lastError struct {
	Code    string    `bson:"code"`
	Message string    `bson:"message"`
	At      time.Time `bson:"at,omitempty"`
}

// duration is a Go duration string.
type duration string

func newDuration(d time.Duration) duration {
	if d == 0 {
		return ""
	}
	return duration(d.String())
}

func (d duration) parse() (time.Duration, error) {
	if d == "" {
		return 0, nil
	}
	return time.ParseDuration(string(d))
}

// encode returns the document of the account.
func encode(a account.Account) document {
	d := document{
		Key: a.Key.String(), Platform: a.Key.Platform(), ID: a.Key.ID(),
		Type: a.Type, Label: a.Label, Status: a.Status,
		Version: int64(a.Version), Rev: int64(a.Rev),
		AnnouncePending: a.AnnouncePending, Reason: a.Reason,
		Credentials: a.Credentials, Fingerprints: fingerprints(a.Fingerprints),
		IssuedAt: a.IssuedAt, ExpiresAt: a.ExpiresAt, Lifetime: newDuration(a.Lifetime),
		RefreshAt: a.RefreshAt, EarliestRefreshAt: a.EarliestRefreshAt,
		LastRotationID: a.LastRotationID, ForcedStreak: int64(a.ForcedStreak),
		CooldownUntil: a.CooldownUntil, Failures: int64(a.Failures),
		DeletedAt: a.DeletedAt, CreatedAt: a.CreatedAt, UpdatedAt: a.UpdatedAt,
		SchemaVersion: int64(a.SchemaVersion),
	}
	if r := a.Rotation; r != nil {
		d.Rotation = &rotation{
			ID: r.ID, Worker: r.Worker, Host: r.Host, State: r.State,
			FromVersion: int64(r.FromVersion), StartedAt: r.StartedAt, Heartbeat: r.Heartbeat,
			LeaseTTL: newDuration(r.LeaseTTL), Attempts: int64(r.Attempts), FirstStart: r.FirstStartedAt, NoAnswer: r.NoAnswer, EarlierOpen: r.EarlierOpen,
		}
	}
	if e := a.LastError; e != nil {
		d.LastError = new(lastError(*e))
	}
	return d
}

// known is true of documents whose form this program knows. Those of schema
// version 0, or of none, come from other programs and have the form of 1: so
// it is enough that each write sets the version, whatever else it sets. That
// ends with version 2, whose first write of an older document must write all
// of it.
var known = bson.E{Key: "schema_version", Value: bson.D{{Key: "$not", Value: bson.D{{Key: "$gt", Value: int64(account.SchemaVersion)}}}}}

// checkSchema returns ErrNewer unless the document's form is known. It says so
// before anything else of the document is read.
func checkSchema(raw bson.Raw) error {
	var d struct {
		SchemaVersion float64 `bson:"schema_version"`
	}
	if err := bson.Unmarshal(raw, &d); err != nil {
		return err
	}
	if d.SchemaVersion > account.SchemaVersion {
		return fmt.Errorf("%w: its schema version is %v, this worker knows %d; upgrade this worker", ErrNewer, d.SchemaVersion, account.SchemaVersion)
	}
	return nil
}

// decode returns the account of a document.
func decode(raw bson.Raw) (account.Account, error) {
	if err := checkSchema(raw); err != nil {
		return account.Account{}, err
	}
	var d document
	if err := bson.Unmarshal(raw, &d); err != nil {
		return account.Account{}, err
	}
	key, err := account.ParseKey(d.Key)
	if err != nil {
		return account.Account{}, err
	}
	lifetime, err := d.Lifetime.parse()
	if err != nil {
		return account.Account{}, fmt.Errorf("lifetime: %w", err)
	}
	a := account.Account{
		Key: key, Type: d.Type, Label: d.Label, Status: d.Status,
		Version: account.Version(d.Version), Rev: account.Rev(d.Rev),
		AnnouncePending: d.AnnouncePending, Reason: d.Reason,
		Credentials: d.Credentials, Fingerprints: account.Fingerprints(d.Fingerprints),
		IssuedAt: d.IssuedAt, ExpiresAt: d.ExpiresAt, Lifetime: lifetime,
		RefreshAt: d.RefreshAt, EarliestRefreshAt: d.EarliestRefreshAt,
		LastRotationID: d.LastRotationID, ForcedStreak: int(d.ForcedStreak),
		CooldownUntil: d.CooldownUntil, Failures: int(d.Failures),
		DeletedAt: d.DeletedAt, CreatedAt: d.CreatedAt, UpdatedAt: d.UpdatedAt,
		SchemaVersion: int(d.SchemaVersion),
	}
	if r := d.Rotation; r != nil {
		ttl, err := r.LeaseTTL.parse()
		if err != nil {
			return account.Account{}, fmt.Errorf("rotation.lease_ttl: %w", err)
		}
		a.Rotation = &account.Rotation{
			ID: r.ID, Worker: r.Worker, Host: r.Host, State: r.State,
			FromVersion: account.Version(r.FromVersion), StartedAt: r.StartedAt, Heartbeat: r.Heartbeat,
			LeaseTTL: ttl, Attempts: int(r.Attempts), FirstStartedAt: r.FirstStart, NoAnswer: r.NoAnswer, EarlierOpen: r.EarlierOpen,
		}
	}
	if e := d.LastError; e != nil {
		a.LastError = new(account.LastError(*e))
	}
	return a, nil
}
