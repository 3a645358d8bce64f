package provider

import (
	"sync"
	"time"

	"github.com/tokenbus/tokenbus/account"
)

// sights remembers what this worker has itself seen of others' rotations, on
// its own monotonic clock.
type sights struct {
	mu sync.Mutex // guards m
	m  map[account.Key]sighting
}

type sighting struct {
	id        string
	heartbeat int64
	known     time.Duration // when the rotation was first seen
	changed   time.Duration // when its heartbeat was first seen at this value
}

// forget drops what is known of an account whose rotation has ended.
func (s *sights) forget(key account.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.m, key)
}

// look notes the document's rotation and returns what is known of it.
func (s *sights) look(a *account.Account, now time.Duration) Sight {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.Rotation == nil {
		delete(s.m, a.Key)
		return Sight{}
	}
	seen, ok := s.m[a.Key]
	if !ok || seen.id != a.Rotation.ID {
		seen = sighting{a.Rotation.ID, a.Rotation.Heartbeat, now, now}
	}
	if seen.heartbeat != a.Rotation.Heartbeat {
		seen.heartbeat, seen.changed = a.Rotation.Heartbeat, now
	}
	s.m[a.Key] = seen
	return Sight{Known: now - seen.known, Still: now - seen.changed}
}
