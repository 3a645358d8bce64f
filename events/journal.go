package events

import (
	"cmp"
	"slices"
	"time"

	"github.com/tokenbus/tokenbus/account"
)

// JournalPlace is which of the two journals a record waits in.
type JournalPlace string

// The journals.
const (
	JournalSpool  JournalPlace = "spool"  // on the disk of the worker that answers
	JournalShared JournalPlace = "shared" // the bucket of all workers
)

// MaxJournalRecords is how many records a reply of journal.list has at most.
const MaxJournalRecords = 1000

// JournalRequest is the body of journal.list. It has no fields.
type JournalRequest struct{}

// JournalReply answers journal.list.
type JournalReply struct {
	Worker  string          `json:"worker"` // who answers, and whose spool was looked at
	Records []JournalRecord `json:"records"`
	More    int             `json:"more,omitempty"` // how many were left out
}

// JournalRecord is an answer of a token endpoint that is not in the store yet,
// without the answer. One that waits in both journals is listed twice. Where
// not even a record's name can be read, Where and Problem are all there is.
type JournalRecord struct {
	Platform    string          `json:"platform,omitempty"`
	ID          string          `json:"id,omitempty"`
	RotationID  string          `json:"rotation_id,omitempty"`
	FromVersion account.Version `json:"from_version,omitempty"` // the version that the rotation started from
	Worker      string          `json:"worker,omitempty"`       // who got the answer
	Host        string          `json:"host,omitempty"`
	At          time.Time       `json:"at,omitzero"` // when the request was sent that it answers
	Where       JournalPlace    `json:"where"`
	Readable    bool            `json:"readable"`          // the worker that answers can read and open it
	Problem     string          `json:"problem,omitempty"` // why not, and the file or the bucket's key
}

// NewJournalReply returns the reply of a worker: the records in the order of
// their keys, those with a problem before the others, and no more than
// [MaxJournalRecords]. It sorts records in place.
func NewJournalReply(worker string, records []JournalRecord) JournalReply {
	slices.SortFunc(records, func(a, b JournalRecord) int {
		return cmp.Or(
			cmp.Compare(min(1, len(b.Problem)), min(1, len(a.Problem))),
			cmp.Compare(a.Platform, b.Platform), cmp.Compare(a.ID, b.ID), a.At.Compare(b.At),
			cmp.Compare(a.RotationID, b.RotationID), cmp.Compare(a.Where, b.Where), cmp.Compare(a.Problem, b.Problem),
		)
	})
	n := min(len(records), MaxJournalRecords)
	return JournalReply{Worker: worker, Records: append([]JournalRecord{}, records[:n]...), More: len(records) - n}
}
