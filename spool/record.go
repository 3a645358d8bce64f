package spool

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/rotation"
)

const (
	recordEnd = ".json"
	// maxName is the longest file name that common file systems take.
	maxName = 255
	// tempLen is what tempName adds.
	tempLen = 1 + 8 + len(tempEnd)
)

var validRotationID = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// recordName returns the file name of a record. Keys and rotation ids have no
// character that means something to a file system, but for the dot between.
func recordName(key account.Key, rotationID string) (string, error) {
	if key.IsZero() {
		return "", errors.New("spool record without an account")
	}
	if !validRotationID.MatchString(rotationID) {
		return "", fmt.Errorf("spool record of %s: rotation id %.80q: want characters of A-Z, a-z, 0-9, _ and - alone", key, rotationID)
	}
	name := key.String() + "." + rotationID + recordEnd
	if len(name)+tempLen > maxName {
		return "", fmt.Errorf("spool record of %s: rotation id of %d characters makes the file name too long", key, len(rotationID))
	}
	return name, nil
}

// parseName undoes recordName.
func parseName(name string) (account.Key, string, bool) {
	rest, isRecord := strings.CutSuffix(name, recordEnd)
	dot := strings.LastIndexByte(rest, '.')
	if !isRecord || dot < 0 {
		return account.Key{}, "", false
	}
	key, err := account.ParseKey(rest[:dot])
	if err != nil || !validRotationID.MatchString(rest[dot+1:]) {
		return account.Key{}, "", false
	}
	return key, rest[dot+1:], true
}

// tempName returns a name that nobody else uses for the time before the rename.
func tempName(final string) string { return final + "." + rand.Text()[:8] + tempEnd }

// finalName undoes tempName; false for other names. The answer need not be the
// name of a record.
func finalName(temp string) (string, bool) {
	rest, ok := strings.CutSuffix(temp, tempEnd)
	if !ok {
		return "", false
	}
	if dot := strings.LastIndexByte(rest, '.'); dot >= 0 {
		rest = rest[:dot]
	}
	return rest, true
}

func encode(r rotation.Record) (name string, data []byte, err error) {
	if name, err = recordName(r.Key, r.RotationID); err != nil {
		return "", nil, err
	}
	if len(r.Answer) == 0 {
		return "", nil, fmt.Errorf("spool record %s without an answer", name)
	}
	if data, err = json.Marshal(r); err != nil {
		return "", nil, fmt.Errorf("encode spool record %s: %w", name, err)
	}
	return name, append(data, '\n'), nil
}

// decode reads a record.
func decode(data []byte) (rotation.Record, error) {
	var r rotation.Record
	if len(data) == 0 {
		return r, errors.New("the file is empty")
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return rotation.Record{}, fmt.Errorf("not a whole record: %w", err)
	}
	if r.Key.IsZero() || len(r.Answer) == 0 {
		return rotation.Record{}, errors.New("not a record: it lacks the account or the answer")
	}
	return r, nil
}
