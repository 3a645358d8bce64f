// Package memory has small working implementations of the core's ports, for
// tests that need faults and full control: a store, a cache, leases, a
// journal with spool, and a publisher, all in one process.
//
// Each calls its Fault hook, if set, before it does anything. The hook may
// block, and decides whether the operation is applied and what is reported:
// (true, nil) is the normal case, (false, err) failed before, (true, err) is
// done but reported as failed.
package memory

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/rotation"
)

// Fault decides about one operation, named as the port's method.
type Fault func(ctx context.Context, op string, key account.Key) (apply bool, err error)

// Hook holds a Fault, which may be changed at any time.
type Hook struct{ p atomic.Pointer[Fault] }

// Set installs f; nil means no faults.
func (h *Hook) Set(f Fault) { h.p.Store(&f) }

func (h *Hook) ask(ctx context.Context, op string, key account.Key) (bool, error) {
	if f := h.p.Load(); f != nil && *f != nil {
		return (*f)(ctx, op, key)
	}
	return ctx.Err() == nil, ctx.Err()
}

// Store is a [ledger.Store].
type Store struct {
	Fault Hook

	mu sync.Mutex // guards m
	m  map[account.Key]account.Account
}

// Get implements [ledger.Store].
func (s *Store) Get(ctx context.Context, key account.Key) (account.Account, error) {
	if _, err := s.Fault.ask(ctx, "Get", key); err != nil {
		return account.Account{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.m[key]
	if !ok {
		return account.Account{}, ledger.ErrNotFound
	}
	return a.Clone(), nil
}

// Create implements [ledger.Store].
func (s *Store) Create(ctx context.Context, a account.Account) error {
	apply, err := s.Fault.ask(ctx, "Create", a.Key)
	if !apply {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.m[a.Key]; ok {
		return cmp.Or(err, ledger.ErrConflict)
	}
	if s.m == nil {
		s.m = map[account.Key]account.Account{}
	}
	s.m[a.Key] = a.Clone()
	return err
}

// Update implements [ledger.Store].
func (s *Store) Update(ctx context.Context, key account.Key, g account.Guard, c account.Change) (account.Account, error) {
	apply, err := s.Fault.ask(ctx, "Update", key)
	if !apply {
		return account.Account{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.m[key]
	switch {
	case !ok:
		return account.Account{}, cmp.Or(err, ledger.ErrNotFound)
	case !g.Holds(&a):
		return account.Account{}, cmp.Or(err, ledger.ErrConflict)
	}
	a = a.Clone()
	c.Apply(&a)
	s.m[key] = a
	if err != nil {
		return account.Account{}, err
	}
	return a.Clone(), nil
}

// Due implements [ledger.Store].
func (s *Store) Due(ctx context.Context, now time.Time, limit int, except ...string) ([]account.Key, error) {
	if _, err := s.Fault.ask(ctx, "Due", account.Key{}); err != nil {
		return nil, err
	}
	docs := s.filter(func(a *account.Account) bool {
		return a.Status == account.Active && !a.Deleted() && !a.RefreshAt.IsZero() && !a.RefreshAt.After(now) &&
			!slices.Contains(except, a.Key.Platform())
	})
	slices.SortStableFunc(docs, func(a, b account.Account) int { return a.RefreshAt.Compare(b.RefreshAt) })
	return keys(docs, limit), nil
}

// Pending implements [ledger.Store].
func (s *Store) Pending(ctx context.Context, limit int) ([]account.Key, error) {
	if _, err := s.Fault.ask(ctx, "Pending", account.Key{}); err != nil {
		return nil, err
	}
	return keys(s.filter(func(a *account.Account) bool { return a.AnnouncePending }), limit), nil
}

// List implements [ledger.Store].
func (s *Store) List(ctx context.Context, q ledger.ListQuery) ([]account.Account, error) {
	if _, err := s.Fault.ask(ctx, "List", account.Key{}); err != nil {
		return nil, err
	}
	docs := s.filter(func(a *account.Account) bool {
		return !a.Deleted() && (q.Platform == "" || a.Key.Platform() == q.Platform) &&
			(q.Status == "" || a.Status == q.Status) && a.Key.String() > q.After
	})
	return docs[:min(len(docs), q.Limit)], nil
}

// filter returns copies of the documents for which f holds, in key order.
func (s *Store) filter(f func(*account.Account) bool) []account.Account {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []account.Account
	for _, a := range s.m {
		if f(&a) {
			out = append(out, a.Clone())
		}
	}
	slices.SortFunc(out, func(a, b account.Account) int { return cmp.Compare(a.Key.String(), b.Key.String()) })
	return out
}

func keys(docs []account.Account, limit int) []account.Key {
	var out []account.Key
	for _, a := range docs[:min(len(docs), limit)] {
		out = append(out, a.Key)
	}
	return out
}

// Snapshot returns a copy of all documents: a backup.
func (s *Store) Snapshot() map[account.Key]account.Account {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.m)
}

// Restore replaces all documents by a backup, or by what another program
// wrote.
func (s *Store) Restore(m map[account.Key]account.Account) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.m = maps.Clone(m)
}

// Cache is a [ledger.Cache].
type Cache struct {
	Fault Hook

	mu sync.Mutex // guards m
	m  map[account.Key]ledger.Entry
}

// Get implements [ledger.Cache].
func (c *Cache) Get(ctx context.Context, key account.Key) (ledger.Entry, error) {
	if _, err := c.Fault.ask(ctx, "Get", key); err != nil {
		return ledger.Entry{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.m[key]
	if !ok {
		return e, ledger.ErrNotFound
	}
	e.Value = slices.Clone(e.Value)
	return e, nil
}

// Put implements [ledger.Cache].
func (c *Cache) Put(ctx context.Context, key account.Key, e ledger.Entry) (bool, error) {
	apply, err := c.Fault.ask(ctx, "Put", key)
	if !apply {
		return false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.m[key]; ok && old.Rev >= e.Rev {
		return false, err
	}
	if c.m == nil {
		c.m = map[account.Key]ledger.Entry{}
	}
	e.Value = slices.Clone(e.Value)
	c.m[key] = e
	return err == nil, err
}

// Force puts an entry in whatever is there: what a cache must never do.
func (c *Cache) Force(key account.Key, e ledger.Entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = map[account.Key]ledger.Entry{}
	}
	c.m[key] = e
}

// Locker is a [refresh.Locker] whose leases end only by release or by Expire.
type Locker struct {
	Fault Hook

	mu sync.Mutex // guards m
	m  map[account.Key]*memLease
}

type memLease struct {
	locker *Locker
	key    account.Key
}

// Acquire implements [refresh.Locker].
func (l *Locker) Acquire(ctx context.Context, key account.Key) (refresh.Lease, error) {
	apply, err := l.Fault.ask(ctx, "Acquire", key)
	if !apply {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.m[key] != nil {
		return nil, cmp.Or(err, refresh.ErrHeld)
	}
	if l.m == nil {
		l.m = map[account.Key]*memLease{}
	}
	lease := &memLease{l, key}
	l.m[key] = lease
	if err != nil {
		return nil, err
	}
	return lease, nil
}

// Expire ends whatever lease there is on the account.
func (l *Locker) Expire(key account.Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.m, key)
}

// Trusted implements [refresh.Lease].
func (m *memLease) Trusted() bool {
	m.locker.mu.Lock()
	defer m.locker.mu.Unlock()
	return m.locker.m[m.key] == m
}

// Release implements [refresh.Lease].
func (m *memLease) Release(ctx context.Context) {
	if apply, _ := m.locker.Fault.ask(ctx, "Release", m.key); !apply {
		return
	}
	m.locker.mu.Lock()
	defer m.locker.mu.Unlock()
	if m.locker.m[m.key] == m {
		delete(m.locker.m, m.key)
	}
}

// Journal is a [refresh.Journal] and a [refresh.Spool].
type Journal struct {
	Fault Hook

	mu sync.Mutex // guards m
	m  map[string]rotation.Record

	places atomic.Int64
}

// Places returns how many places for an answer are reserved and not given up.
func (j *Journal) Places() int64 { return j.places.Load() }

// Put implements [refresh.Journal].
func (j *Journal) Put(ctx context.Context, r rotation.Record) error { return j.put(ctx, "Put", r) }

// Check implements [refresh.Spool].
func (j *Journal) Check() error {
	_, err := j.Fault.ask(context.Background(), "Check", account.Key{})
	return err
}

// Reserve implements [refresh.Spool].
func (j *Journal) Reserve(key account.Key, _ string) (refresh.Place, error) {
	if _, err := j.Fault.ask(context.Background(), "Reserve", key); err != nil {
		return nil, err
	}
	j.places.Add(1)
	return &place{journal: j}, nil
}

// place is a [refresh.Place].
type place struct {
	journal  *Journal
	released bool
}

func (p *place) Stash(r rotation.Record) error {
	return p.journal.put(context.Background(), "Stash", r)
}

func (p *place) Release() {
	if !p.released {
		p.released = true
		p.journal.places.Add(-1)
	}
}

func (j *Journal) put(ctx context.Context, op string, r rotation.Record) error {
	apply, err := j.Fault.ask(ctx, op, r.Key)
	if !apply {
		return err
	}
	if r.Key.IsZero() || r.RotationID == "" || strings.ContainsFunc(r.RotationID, func(c rune) bool { return c != '-' && c != '_' && !unicode.IsLetter(c) && !unicode.IsDigit(c) }) {
		return errors.New("put journal record: key or rotation id is not valid")
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.m == nil {
		j.m = map[string]rotation.Record{}
	}
	j.m[r.Key.String()+" "+r.RotationID] = r
	return err
}

// Records implements [refresh.Journal].
func (j *Journal) Records(ctx context.Context, key account.Key) ([]rotation.Record, error) {
	if _, err := j.Fault.ask(ctx, "Records", key); err != nil {
		return nil, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []rotation.Record
	for _, name := range slices.Sorted(maps.Keys(j.m)) {
		if r := j.m[name]; key.IsZero() || r.Key == key {
			out = append(out, r)
		}
	}
	return out, nil
}

// Delete implements [refresh.Journal].
func (j *Journal) Delete(ctx context.Context, key account.Key, rotationID string) error {
	apply, err := j.Fault.ask(ctx, "Delete", key)
	if !apply {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.m, key.String()+" "+rotationID)
	return err
}

// Bus is a [ledger.Publisher] that keeps everything it was told. Listeners
// hear it at once, on the publisher's goroutine.
type Bus struct {
	Fault Hook

	mu        sync.Mutex // guards what follows
	last      map[account.Key]events.Bump
	refreshed []events.Refreshed
	statuses  []events.Status
	listeners []Listener
}

// Listener hears what is published.
type Listener interface {
	ObserveBump(events.Bump)
	ObserveStatus(events.Status)
}

// Join adds a listener.
func (b *Bus) Join(l Listener) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listeners = append(b.listeners, l)
}

// Refreshed implements [ledger.Publisher].
func (b *Bus) Refreshed(ctx context.Context, e events.Refreshed) error {
	apply, err := b.Fault.ask(ctx, "Refreshed", e.Key)
	if !apply {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.ContainsFunc(b.refreshed, func(old events.Refreshed) bool { return old.MsgID() == e.MsgID() }) {
		b.refreshed = append(b.refreshed, e)
	}
	return err
}

// Bump implements [ledger.Publisher].
func (b *Bus) Bump(ctx context.Context, e events.Bump) error {
	apply, err := b.Fault.ask(ctx, "Bump", e.Key)
	if !apply {
		return err
	}
	b.mu.Lock()
	if b.last == nil {
		b.last = map[account.Key]events.Bump{}
	}
	if old, ok := b.last[e.Key]; ok && old.Rev >= e.Rev {
		b.mu.Unlock()
		return err
	}
	b.last[e.Key] = e
	listeners := slices.Clone(b.listeners)
	b.mu.Unlock()
	for _, l := range listeners {
		l.ObserveBump(e)
	}
	return err
}

// Status implements [ledger.Publisher].
func (b *Bus) Status(ctx context.Context, e events.Status) error {
	apply, err := b.Fault.ask(ctx, "Status", e.Key)
	if !apply {
		return err
	}
	b.mu.Lock()
	listeners := slices.Clone(b.listeners)
	b.mu.Unlock()
	for _, l := range listeners {
		l.ObserveStatus(e)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.statuses = append(b.statuses, e)
	return err
}

// LastBump implements [ledger.Publisher].
func (b *Bus) LastBump(ctx context.Context, key account.Key) (events.Bump, error) {
	if _, err := b.Fault.ask(ctx, "LastBump", key); err != nil {
		return events.Bump{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	e, ok := b.last[key]
	if !ok {
		return e, ledger.ErrNotFound
	}
	return e, nil
}

// AllRefreshed returns the refreshed events so far.
func (b *Bus) AllRefreshed() []events.Refreshed {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.refreshed)
}

// Statuses returns the status events of the account that all have heard.
func (b *Bus) Statuses(key account.Key) []events.Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []events.Status
	for _, e := range b.statuses {
		if e.Key == key {
			out = append(out, e)
		}
	}
	return out
}
