package rotation

import (
	"time"

	"github.com/tokenbus/tokenbus/account"
)

// Sighting remembers what one worker has seen of an account's rotation, on its
// own clock that only rises.
type Sighting struct {
	id        string
	heartbeat int64
	known     time.Duration // when the rotation was first seen
	changed   time.Duration // when its heartbeat was first seen at this value
}

// Look notes the document's rotation, seen now, and returns what is known of
// it.
func (s *Sighting) Look(a *account.Account, now time.Duration) Sight {
	if a.Rotation == nil {
		*s = Sighting{}
		return Sight{}
	}
	if s.id != a.Rotation.ID {
		*s = Sighting{a.Rotation.ID, a.Rotation.Heartbeat, now, now}
	}
	if s.heartbeat != a.Rotation.Heartbeat {
		s.heartbeat, s.changed = a.Rotation.Heartbeat, now
	}
	return Sight{Known: now - s.known, Still: now - s.changed}
}
