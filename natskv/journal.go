package natskv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/rotation"
)

// Journal keeps records in one bucket, under <platform>.<id>.<rotation id>.
type Journal struct {
	bucket *bucket
}

var _ refresh.Journal = (*Journal)(nil)

// NewJournal opens the bucket <Prefix>_JOURNAL.
func NewJournal(ctx context.Context, c Config) (*Journal, error) {
	b, err := open(ctx, c, settings{suffix: "_JOURNAL", about: "tokenbus: answers of token endpoints that wait to be committed, sealed", purges: true})
	if err != nil {
		return nil, err
	}
	return &Journal{b}, nil
}

var validRotationID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

func recordKey(key account.Key, rotationID string) (string, error) {
	if key.IsZero() {
		return "", errors.New("journal record without an account")
	}
	if !validRotationID.MatchString(rotationID) {
		return "", fmt.Errorf("journal record of %s: rotation id %q: want 1 to 128 characters of A-Z, a-z, 0-9, _ and -", key, rotationID)
	}
	return key.String() + "." + rotationID, nil
}

// Put implements [refresh.Journal].
func (j *Journal) Put(ctx context.Context, r rotation.Record) error {
	key, err := recordKey(r.Key, r.RotationID)
	if err != nil {
		return err
	}
	if len(r.Answer) == 0 {
		return fmt.Errorf("journal record %s without an answer", key)
	}
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode journal record %s: %w", key, err)
	}
	ctx, cancel := j.bucket.bound(ctx)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return j.bucket.failed("put", key, err)
	}
	if _, err := j.bucket.js.Publish(ctx, j.bucket.publish+key, data); err != nil {
		return j.bucket.failed("put", key, err)
	}
	return nil
}

// fence is the key of a message that is written before a read that must not
// be old. It can't be that of a record.
const fence = "fence"

// Records implements [refresh.Journal].
//
// Whoever asks for one account is about to send its refresh token again unless
// a record turns up, and no write to this bucket follows that could be refused.
// So here a leader's answer is not enough: one that was deposed and hasn't
// noticed would say in good faith that there is nothing, and so would a
// follower, which lists its messages where it knows of no leader. A write to
// the fence comes first, which takes a majority, and every answer must be at
// least as new as that. Whoever asks for all accounts looks for work, and may
// miss some.
func (j *Journal) Records(ctx context.Context, key account.Key) ([]rotation.Record, error) {
	filter, since := ">", uint64(0)
	if !key.IsZero() {
		filter = key.String() + ".>"
		var err error
		if since, err = j.raiseFence(ctx); err != nil {
			return nil, j.bucket.failed("list", filter, err)
		}
	}
	keys, err := j.keys(ctx, filter, since)
	if err != nil {
		return nil, j.bucket.failed("list", filter, err)
	}
	var records []rotation.Record
	var torn []error
	for _, k := range keys {
		m, err := j.get(ctx, k, since)
		if err != nil {
			return records, j.bucket.failed("get", k, err)
		}
		if !m.live {
			continue // deleted since
		}
		r, err := decodeRecord(k, m.data)
		if err != nil {
			torn = append(torn, &refresh.TornError{Key: keyOf(k), Where: "bucket " + j.bucket.name + ", key " + k, Err: err})
			continue
		}
		records = append(records, r)
	}
	return records, errors.Join(torn...)
}

// raiseFence returns the sequence of a message that a majority has.
func (j *Journal) raiseFence(ctx context.Context) (uint64, error) {
	ctx, cancel := j.bucket.bound(ctx)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	ack, err := j.bucket.js.Publish(ctx, j.bucket.publish+fence, nil)
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

var errBehind = errors.New("the answer is older than what a majority of the servers has: the one that gave it is cut off")

// keys lists keys and takes no answer that is older than the sequence since.
func (j *Journal) keys(ctx context.Context, filter string, since uint64) (keys []string, err error) {
	ctx, cancel := j.bucket.bound(ctx)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	info, err := j.bucket.stream.Info(ctx, jetstream.WithSubjectFilter(j.bucket.subjects+filter))
	if err != nil {
		return nil, err
	}
	if info.State.LastSeq < since {
		return nil, errBehind
	}
	for subject := range info.State.Subjects {
		if key, ok := j.bucket.key(subject); ok && key != fence {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// get reads a key that was listed. If it is gone, a list that is new enough
// must say so too.
func (j *Journal) get(ctx context.Context, key string, since uint64) (message, error) {
	bounded, cancel := j.bucket.bound(ctx)
	defer cancel()
	m, err := j.bucket.read(bounded, key)
	if err != nil || m.live {
		return m, err
	}
	switch keys, err := j.keys(ctx, key, since); {
	case err != nil:
		return message{}, err
	case len(keys) > 0 && m.seq == 0: // with a sequence it is the mark of a deletion
		return message{}, errBehind
	}
	return m, nil
}

// Delete implements [refresh.Journal]. Nothing of the record is left.
func (j *Journal) Delete(ctx context.Context, key account.Key, rotationID string) error {
	k, err := recordKey(key, rotationID)
	if err != nil {
		return err
	}
	ctx, cancel := j.bucket.bound(ctx)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return j.bucket.failed("delete", k, err)
	}
	if err := j.bucket.stream.Purge(ctx, jetstream.WithPurgeSubject(j.bucket.subjects+k)); err != nil {
		return j.bucket.failed("delete", k, err)
	}
	return nil
}

// decodeRecord reads a record and checks that it is the one of its key.
func decodeRecord(key string, data []byte) (rotation.Record, error) {
	var r rotation.Record
	if err := json.Unmarshal(data, &r); err != nil {
		return rotation.Record{}, fmt.Errorf("not a record: %w", err)
	}
	if want, err := recordKey(r.Key, r.RotationID); err != nil || want != key {
		return rotation.Record{}, errors.New("not the record of this key")
	}
	if len(r.Answer) == 0 {
		return rotation.Record{}, errors.New("record without an answer")
	}
	return r, nil
}

// keyOf returns the account of a record's key, or the zero key.
func keyOf(key string) account.Key {
	text := key
	if i := strings.LastIndexByte(key, '.'); i >= 0 {
		text = key[:i]
	}
	k, err := account.ParseKey(text)
	if err != nil {
		return account.Key{}
	}
	return k
}
