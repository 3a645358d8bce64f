package bus

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// Accounts carries out the operators' verbs. An error is an [*events.Error].
type Accounts interface {
	Put(ctx context.Context, req events.PutRequest) (events.Account, error)
	Patch(ctx context.Context, req events.PatchRequest) (events.Account, error)
	Get(ctx context.Context, req events.KeyRequest) (events.Account, error)
	List(ctx context.Context, req events.ListRequest) (events.ListReply, error)
	Delete(ctx context.Context, req events.KeyRequest) (events.Account, error)
	Enable(ctx context.Context, req events.KeyRequest) (events.Account, error)
	Disable(ctx context.Context, req events.KeyRequest) (events.Account, error)
	Refresh(ctx context.Context, req events.KeyRequest) (events.Account, error)
	ClearError(ctx context.Context, req events.KeyRequest) (events.Account, error)
	JournalList(ctx context.Context) (events.JournalReply, error)
}

// adminQueue is the queue group of the workers that carry out verbs. Every
// worker answers discovery; one of them carries out a verb.
const adminQueue = events.AdminService

// adminTimeout is the patience with one verb: a refresh waits for its exchange.
const adminTimeout = events.MaxTimeout

// verb reads a body and returns what is to be done, or what is wrong.
type verb func(body []byte) (func(ctx context.Context) (any, error), error)

// verbs returns all verbs by name.
func verbs(a Accounts) map[string]verb {
	return map[string]verb{
		events.VerbPut:        on(a.Put, func(r events.PutRequest) error { return checkKey(r.Platform, r.ID) }),
		events.VerbPatch:      on(a.Patch, func(r events.PatchRequest) error { return checkKey(r.Platform, r.ID) }),
		events.VerbGet:        on(a.Get, checkKeyRequest),
		events.VerbList:       on(a.List, checkList),
		events.VerbDelete:     on(a.Delete, checkKeyRequest),
		events.VerbEnable:     on(a.Enable, checkKeyRequest),
		events.VerbDisable:    on(a.Disable, checkKeyRequest),
		events.VerbRefresh:    on(a.Refresh, checkKeyRequest),
		events.VerbClearError: on(a.ClearError, checkKeyRequest),
		events.VerbJournal: on(
			func(ctx context.Context, _ events.JournalRequest) (events.JournalReply, error) {
				return a.JournalList(ctx)
			},
			func(events.JournalRequest) error { return nil },
		),
	}
}

// on makes a verb of a call and of the check that its request must pass.
func on[Q events.PutRequest | events.PatchRequest | events.KeyRequest | events.ListRequest | events.JournalRequest, R any](
	call func(context.Context, Q) (R, error), check func(Q) error,
) verb {
	return func(body []byte) (func(context.Context) (any, error), error) {
		q, err := events.DecodeRequest[Q](body)
		if err != nil {
			return nil, err
		}
		if err := check(q); err != nil {
			return nil, err
		}
		return func(ctx context.Context) (any, error) { return call(ctx, q) }, nil
	}
}

func checkKeyRequest(r events.KeyRequest) error { return checkKey(r.Platform, r.ID) }

func checkKey(platform, id string) error {
	if _, err := account.NewKey(platform, id); err != nil {
		return events.BadRequest(err.Error())
	}
	return nil
}

func checkList(r events.ListRequest) error {
	if r.Limit < 0 || r.Limit > events.MaxListLimit {
		return events.BadRequest("limit: want 1 to 1000, or 0 for 100")
	}
	switch r.Status {
	case "", account.Active, account.Disabled, account.ReauthRequired:
		return nil
	}
	return events.BadRequest("status: want active, disabled or reauth_required")
}

// adminEndpoints returns an endpoint for each verb.
func adminEndpoints(subjects events.Subjects, a Accounts) []endpoint {
	var all []endpoint
	for name, v := range verbs(a) {
		all = append(all, endpoint{
			name:    strings.ReplaceAll(name, ".", "-"), // names of endpoints have no dots
			subject: subjects.Admin(name),
			prepare: func(m *nats.Msg) ([]byte, work, error) {
				do, err := v(m.Data)
				if err != nil {
					return nil, nil, err
				}
				return nil, func(ctx context.Context, done func([]byte, error)) {
					go func() { done(carryOut(ctx, do)) }()
				}, nil
			},
		})
	}
	return all
}

// carryOut carries out a verb and encodes its result.
func carryOut(ctx context.Context, do func(ctx context.Context) (any, error)) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	result, err := do(ctx)
	if err != nil {
		return nil, err
	}
	return json.Marshal(result)
}
