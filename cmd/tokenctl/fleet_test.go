package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
)

// fleet is a NATS server as a worker embeds it, with the roles' permissions,
// and what stands for the workers: it keeps accounts in memory and follows the
// contract as far as a caller can see it.
type fleet struct {
	server   *bus.Server
	nc       *nats.Conn
	service  micro.Service
	subjects events.Subjects

	mu    sync.Mutex // guards docs and spent
	docs  map[account.Key]*fakeDoc
	spent map[string]bool

	// before, set before the first request, is called with every get and put
	// and may keep it waiting, or say what the worker answers instead.
	before  func(verb, id string) error
	pending sync.WaitGroup // requests that are being answered
	deaf    bool           // nothing more is taken; guarded by mu
}

type fakeDoc struct {
	events.Account
	credentials account.Credentials
}

func startFleet(dataDir string, auth bus.Auth) (*fleet, error) {
	subjects, err := events.NewSubjects(events.DefaultPrefix)
	if err != nil {
		return nil, err
	}
	f := &fleet{subjects: subjects, docs: map[account.Key]*fakeDoc{}, spent: map[string]bool{}}
	f.server, err = bus.StartServer(bus.ServerConfig{Listen: "127.0.0.1:0", DataDir: dataDir, Auth: auth, Subjects: subjects, SyncInterval: time.Minute})
	if err != nil {
		return nil, err
	}
	if f.nc, err = bus.Connect(bus.Config{Server: f.server}); err != nil {
		return nil, err
	}
	f.service, err = micro.AddService(f.nc, micro.Config{Name: events.AdminService, Version: "0.0.0"})
	if err != nil {
		return nil, err
	}
	serve(f, events.VerbPut, f.put)
	serve(f, events.VerbPatch, f.patch)
	serve(f, events.VerbList, f.list)
	serve(f, events.VerbJournal, f.journal)
	serve(f, events.VerbGet, f.on(func(d *fakeDoc, _ bool) error { return nil }))
	serve(f, events.VerbRefresh, f.on(f.refresh))
	serve(f, events.VerbDisable, f.on(func(d *fakeDoc, _ bool) error { d.Status = account.Disabled; return nil }))
	serve(f, events.VerbEnable, f.on(func(d *fakeDoc, _ bool) error { d.Status = account.Active; return nil }))
	serve(f, events.VerbClearError, f.on(func(d *fakeDoc, _ bool) error {
		d.Failures, d.LastError, d.CooldownUntil = 0, nil, time.Time{}
		return nil
	}))
	serve(f, events.VerbDelete, f.on(func(d *fakeDoc, _ bool) error { delete(f.docs, d.Key()); return nil }))
	if err := f.service.AddEndpoint("token", micro.HandlerFunc(f.token), micro.WithEndpointSubject(subjects.AllRequests())); err != nil {
		return nil, err
	}
	return f, f.nc.Flush()
}

func (f *fleet) stop() {
	_ = f.service.Stop()
	f.rest()
	f.nc.Close()
	f.server.Shutdown()
}

// rest waits for the requests that were taken, and takes no more.
func (f *fleet) rest() {
	f.mu.Lock()
	f.deaf = true
	f.mu.Unlock()
	f.pending.Wait()
}

// serve answers one verb.
func serve[Q events.PutRequest | events.PatchRequest | events.KeyRequest | events.ListRequest | events.JournalRequest](f *fleet, verb string, do func(Q) (any, error)) {
	handler := micro.HandlerFunc(func(r micro.Request) {
		// Like a worker's, which answers many at once.
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.deaf {
			return
		}
		f.pending.Go(func() {
			q, err := events.DecodeRequest[Q](r.Data())
			if err == nil && f.before != nil {
				switch q := any(q).(type) {
				case events.PutRequest:
					err = f.before(verb, q.ID)
				case events.KeyRequest:
					err = f.before(verb, q.ID)
				}
			}
			var reply any
			if err == nil {
				f.mu.Lock()
				reply, err = do(q)
				f.mu.Unlock()
			}
			respond(r, reply, err)
		})
	})
	if err := f.service.AddEndpoint(strings.ReplaceAll(verb, ".", "-"), handler, micro.WithEndpointSubject(f.subjects.Admin(verb))); err != nil {
		panic(err)
	}
}

func respond(r micro.Request, reply any, err error) {
	if e, ok := err.(*events.Error); ok {
		_ = r.Respond(e.Encode(), micro.WithHeaders(micro.Headers(e.Header()))) // Error is for handlers that have not returned
		return
	}
	if raw, ok := reply.([]byte); ok {
		_ = r.Respond(raw)
		return
	}
	_ = r.RespondJSON(reply)
}

// on makes a verb of what happens to one account. Some ids stand for trouble.
func (f *fleet) on(do func(d *fakeDoc, force bool) error) func(events.KeyRequest) (any, error) {
	return func(r events.KeyRequest) (any, error) {
		key, err := account.NewKey(r.Platform, r.ID)
		if err != nil {
			return nil, events.BadRequest(err.Error())
		}
		d, ok := f.docs[key]
		if !ok {
			return nil, &events.Error{Code: events.CodeNotFound, Message: "no account " + key.String()}
		}
		if err := do(d, r.Force); err != nil {
			return nil, err
		}
		return d.Account, nil
	}
}

func (f *fleet) refresh(d *fakeDoc, force bool) error {
	switch {
	case d.ID == "doubtful" && !force:
		return &events.Error{Code: events.CodeUnavailable, Message: "an exchange is in doubt", RetryAfter: 90 * time.Second}
	case d.ID == "dead":
		return &events.Error{Code: events.CodeReauthRequired, Message: "invalid_grant"}
	}
	f.spent[d.credentials.RefreshToken.Reveal()] = true
	d.Version++
	d.credentials.AccessToken = account.NewSecret(fmt.Sprintf("SECRET-at-%d", d.Version))
	d.credentials.RefreshToken = account.NewSecret(fmt.Sprintf("SECRET-rt-%s-%d", d.ID, d.Version))
	d.ExpiresAt = time.Now().Add(time.Hour + time.Minute).UTC()
	f.announce(d.Account)
	return nil
}

// announce publishes what the workers publish about a new version.
func (f *fleet) announce(d events.Account) {
	at := time.Now().UTC()
	e := events.Refreshed{Key: d.Key(), Version: d.Version, ExpiresAt: d.ExpiresAt, Reason: events.ReasonForced, By: "worker-1", At: at}
	_ = f.nc.Publish(f.subjects.Refreshed(e.Key), e.Encode())
	_ = f.nc.Publish(f.subjects.Bump(e.Key), events.Bump{Key: e.Key, Version: d.Version, Rev: 7, At: at}.Encode())
	_ = f.nc.Publish(f.subjects.Status(e.Key), events.Status{Key: e.Key, Status: d.Status, Code: events.StatusCoolingDown, Message: "429\x1b[31m", Until: at.Add(time.Minute), At: at}.Encode())
}

func (f *fleet) put(r events.PutRequest) (any, error) {
	key, err := account.NewKey(r.Platform, r.ID)
	if err != nil {
		return nil, events.BadRequest(err.Error())
	}
	c, err := account.DecodeCredentials(r.Credentials)
	if err != nil || r.Type != "oauth" {
		return nil, events.BadRequest(fmt.Sprint("type or credentials: ", err))
	}
	if f.spent[c.RefreshToken.Reveal()] {
		return nil, events.BadRequest(fmt.Sprintf("credentials.refresh_token: this fleet has spent it already; %s needs a new login, not an old login file", key))
	}
	now := time.Now().UTC()
	d := f.docs[key]
	if r.IfVersion != nil && (d == nil && *r.IfVersion != 0 || d != nil && *r.IfVersion != d.Version) {
		return nil, events.BadRequest("if_version: another version")
	}
	if d == nil {
		d = &fakeDoc{Account: events.Account{Platform: r.Platform, ID: r.ID, Type: r.Type, Status: account.Active, CreatedAt: now}}
		f.docs[key] = d
	}
	if r.Label != nil {
		d.Label = *r.Label
	}
	if !d.credentials.Equal(c) || d.Version == 0 {
		d.credentials, d.Version, d.ExpiresAt, d.HasRefreshToken, d.UpdatedAt = c, d.Version+1, c.ExpiresAt, !c.RefreshToken.IsZero(), now
		if d.RefreshAt = now.Add(time.Hour + time.Minute); !d.HasRefreshToken {
			d.RefreshAt = d.ExpiresAt // when it has to be looked at
		}
	}
	if d.ID == "ailing" {
		d.Failures, d.CooldownUntil = 3, now.Add(5*time.Minute)
		d.LastError = &events.AccountError{Code: "throttled", Message: "429", At: now}
		d.Rotation = &events.Rotation{State: account.RotationInDoubt, Worker: "worker-1", StartedAt: now}
	}
	return d.Account, nil
}

func (f *fleet) patch(r events.PatchRequest) (any, error) {
	return f.on(func(d *fakeDoc, _ bool) error {
		if r.Label != nil {
			d.Label = *r.Label
		}
		if r.ProxyURL != nil || r.Extra != nil {
			d.Version++
			text, _ := json.Marshal(r.Extra)
			d.Label += fmt.Sprintf(" proxy=%s extra=%s", r.ProxyURL, text)
		}
		return nil
	})(events.KeyRequest{Platform: r.Platform, ID: r.ID})
}

func (f *fleet) list(r events.ListRequest) (any, error) {
	if r.Limit < 1 || r.Limit > events.MaxListLimit {
		return nil, events.BadRequest("limit: out of bounds")
	}
	keys := slices.SortedFunc(maps.Keys(f.docs), func(a, b account.Key) int { return cmp.Compare(a.String(), b.String()) })
	reply := events.ListReply{Accounts: []events.Account{}}
	// Pages are short, so that there are several.
	for _, key := range keys {
		d := f.docs[key]
		if key.String() <= r.Cursor || r.Platform != "" && r.Platform != key.Platform() || r.Status != "" && r.Status != d.Status {
			continue
		}
		if len(reply.Accounts) == min(r.Limit, 2) {
			reply.NextCursor = reply.Accounts[len(reply.Accounts)-1].Key().String()
			break
		}
		reply.Accounts = append(reply.Accounts, d.Account)
	}
	return reply, nil
}

// journal has records if an account of that name is there.
func (f *fleet) journal(events.JournalRequest) (any, error) {
	var records []events.JournalRecord
	for key, d := range f.docs {
		if key.ID() != "waiting" {
			continue
		}
		at := time.Now().Add(-90 * time.Second).UTC()
		for _, where := range []events.JournalPlace{events.JournalSpool, events.JournalShared} {
			records = append(records, events.JournalRecord{
				Platform: key.Platform(), ID: key.ID(), RotationID: "ROT1", FromVersion: d.Version, Worker: "worker-1", Host: "host-1", At: at, Where: where, Readable: true,
			})
		}
		records = append(records,
			events.JournalRecord{Platform: key.Platform(), ID: "torn", Where: events.JournalSpool, Problem: "journal record /spool/torn: the file\x1b[31m is empty"},
			events.JournalRecord{Where: events.JournalShared, Problem: "bucket away"})
	}
	reply := events.NewJournalReply("worker-1", records)
	if len(records) > 0 {
		reply.More = 3
	}
	return reply, nil
}

func (f *fleet) token(r micro.Request) {
	key, err := f.subjects.ParseRequest(r.Subject())
	if err != nil {
		respond(r, nil, events.BadRequest(err.Error()))
		return
	}
	q, err := events.DecodeTokenRequest(r.Data())
	if err != nil {
		respond(r, nil, err)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	d, ok := f.docs[key]
	switch {
	case !ok:
		err = &events.Error{Code: events.CodeNotFound, Message: "no account " + key.String()}
	case d.Status == account.Disabled:
		err = &events.Error{Code: events.CodeDisabled, Message: "disabled by an operator"}
	case q.MinTTL > time.Hour:
		err = &events.Error{Code: events.CodeCoolingDown, Message: "too often", RetryAfter: 10 * time.Second}
	default:
		respond(r, events.TokenReply{
			Key: key, Version: d.Version, AccessToken: d.credentials.AccessToken, TokenType: "Bearer", ExpiresAt: d.ExpiresAt,
			Source: events.SourceL1, Extra: account.Extra{"chatgpt_account_id": json.RawMessage(`"ws-1"`)},
		}.Encode(), nil)
		return
	}
	respond(r, nil, err)
}
