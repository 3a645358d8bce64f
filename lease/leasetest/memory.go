package leasetest

import (
	"context"
	"sync"
	"time"

	"github.com/tokenbus/tokenbus/lease"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/refresh"
)

// Memory is a lease backend in memory, for tests of what sits on one.
type Memory struct {
	ttl time.Duration

	mu      sync.Mutex // guards what follows
	entries map[string]memoryEntry
	rev     uint64
}

type memoryEntry struct {
	token lease.Token
	ends  time.Time
}

var _ lease.Backend = (*Memory)(nil)

// NewMemory returns an empty backend.
func NewMemory(ttl time.Duration) *Memory {
	return &Memory{ttl: ttl, entries: map[string]memoryEntry{}}
}

// TTL implements [lease.Backend].
func (m *Memory) TTL() time.Duration { return m.ttl }

// Acquire implements [lease.Backend].
func (m *Memory) Acquire(ctx context.Context, name, owner string) (lease.Token, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	held, ok := m.current(name)
	switch {
	case ctx.Err() != nil:
		return lease.Token{}, ctx.Err()
	case ok && held.Owner == owner:
		return held, nil
	case ok:
		return lease.Token{}, refresh.ErrHeld
	}
	return m.write(name, owner), nil
}

// Renew implements [lease.Backend].
func (m *Memory) Renew(ctx context.Context, name string, token lease.Token) (lease.Token, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return lease.Token{}, ctx.Err()
	}
	if held, ok := m.current(name); !ok || held != token {
		return lease.Token{}, lease.ErrLost
	}
	return m.write(name, token.Owner), nil
}

// Release implements [lease.Backend].
func (m *Memory) Release(ctx context.Context, name string, token lease.Token) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if held, ok := m.current(name); !ok || held != token {
		return lease.ErrLost
	}
	delete(m.entries, name)
	return nil
}

// Read implements [lease.Backend].
func (m *Memory) Read(ctx context.Context, name string) (lease.Token, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return lease.Token{}, ctx.Err()
	}
	held, ok := m.current(name)
	if !ok {
		return lease.Token{}, ledger.ErrNotFound
	}
	return held, nil
}

// current is called with mu held, as is write.
func (m *Memory) current(name string) (lease.Token, bool) {
	e, ok := m.entries[name]
	return e.token, ok && time.Now().Before(e.ends)
}

func (m *Memory) write(name, owner string) lease.Token {
	m.rev++
	token := lease.Token{Owner: owner, Revision: m.rev}
	m.entries[name] = memoryEntry{token, time.Now().Add(m.ttl)}
	return token
}

// Faulty puts a hook before every call of a backend.
type Faulty struct {
	lease.Backend
	// Hook gets the name of the method ("Acquire", "Renew", "Release",
	// "Read"). It says whether the call is carried out, and what error the
	// caller gets instead of the reply; nil: the reply.
	Hook func(method string) (apply bool, err error)
}

// Acquire implements [lease.Backend].
func (f *Faulty) Acquire(ctx context.Context, name, owner string) (lease.Token, error) {
	return f.call("Acquire", func() (lease.Token, error) { return f.Backend.Acquire(ctx, name, owner) })
}

// Renew implements [lease.Backend].
func (f *Faulty) Renew(ctx context.Context, name string, token lease.Token) (lease.Token, error) {
	return f.call("Renew", func() (lease.Token, error) { return f.Backend.Renew(ctx, name, token) })
}

// Release implements [lease.Backend].
func (f *Faulty) Release(ctx context.Context, name string, token lease.Token) error {
	_, err := f.call("Release", func() (lease.Token, error) { return lease.Token{}, f.Backend.Release(ctx, name, token) })
	return err
}

// Read implements [lease.Backend].
func (f *Faulty) Read(ctx context.Context, name string) (lease.Token, error) {
	return f.call("Read", func() (lease.Token, error) { return f.Backend.Read(ctx, name) })
}

func (f *Faulty) call(method string, do func() (lease.Token, error)) (lease.Token, error) {
	apply, fault := f.Hook(method)
	var token lease.Token
	var err error
	if apply {
		token, err = do()
	}
	if fault != nil {
		return lease.Token{}, fault
	}
	return token, err
}
