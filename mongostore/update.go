package mongostore

import (
	"fmt"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/tokenbus/tokenbus/account"
)

// groups are the document's fields that a change sets together.
var groups = []struct {
	bit    account.Fields
	fields []string
}{
	{account.FieldVersion, []string{"version"}},
	{account.FieldCredentials, []string{"credentials", "type", "issued_at", "expires_at", "lifetime", "earliest_refresh_at"}},
	{account.FieldFingerprints, []string{"fingerprints"}},
	{account.FieldRotation, []string{"rotation"}},
	{account.FieldLastRotation, []string{"last_rotation_id"}},
	{account.FieldStatus, []string{"status"}},
	{account.FieldFailure, []string{"cooldown_until", "failures", "last_error"}},
	{account.FieldForced, []string{"forced_streak"}},
	{account.FieldRefreshAt, []string{"refresh_at"}},
	{account.FieldLabel, []string{"label"}},
	{account.FieldAnnounce, []string{"announce_pending", "reason"}},
	{account.FieldDeleted, []string{"deleted_at"}},
	{account.FieldRev, []string{"rev"}},
}

// filter returns the condition that the document of key exists, that its form
// is known, and that the guard holds of it, as [account.Guard.Holds] has it.
func filter(key account.Key, g account.Guard) bson.D {
	f := bson.D{{Key: "_id", Value: key.String()}, known}
	if g.Version != 0 {
		f = append(f, bson.E{Key: "version", Value: int64(g.Version)})
	}
	if g.Rev != 0 {
		f = append(f, bson.E{Key: "rev", Value: int64(g.Rev)})
	}
	if g.Credentials != nil {
		f = append(f, bson.E{Key: "credentials", Value: g.Credentials})
	}
	switch {
	case g.Rotation == nil:
	case *g.Rotation == "":
		f = append(f, bson.E{Key: "rotation", Value: bson.D{{Key: "$exists", Value: false}}})
	default:
		f = append(f, bson.E{Key: "rotation.id", Value: *g.Rotation})
		if g.Heartbeat != nil {
			f = append(f, bson.E{Key: "rotation.heartbeat", Value: *g.Heartbeat})
		}
	}
	return f
}

// update returns what the change does to a document, as
// [account.Change.Apply] has it: fields without a value are removed.
func update(c account.Change) (bson.D, error) {
	to := c.To
	to.UpdatedAt, to.SchemaVersion = c.At, account.SchemaVersion
	bumpRev := c.BumpRev
	if bumpRev && c.Fields&account.FieldRev != 0 {
		to.Rev, bumpRev = to.Rev+1, false // MongoDB refuses to set and raise one field at once
	}
	raw, err := bson.Marshal(encode(to))
	if err != nil {
		return nil, fmt.Errorf("encode change: %w", err)
	}
	var set, unset bson.D
	put := func(names ...string) {
		for _, name := range names {
			if value, err := bson.Raw(raw).LookupErr(name); err == nil {
				set = append(set, bson.E{Key: name, Value: value})
			} else {
				unset = append(unset, bson.E{Key: name, Value: ""})
			}
		}
	}
	for _, g := range groups {
		if c.Fields&g.bit != 0 {
			put(g.fields...)
		}
	}
	put("updated_at", "schema_version")
	out := bson.D{{Key: "$set", Value: set}}
	if len(unset) > 0 {
		out = append(out, bson.E{Key: "$unset", Value: unset})
	}
	if bumpRev {
		out = append(out, bson.E{Key: "$inc", Value: bson.D{{Key: "rev", Value: int64(1)}}})
	}
	return out, nil
}
