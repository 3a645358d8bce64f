package client

import (
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// Only a last bump that was heard, and is the last heard, says that nothing was
// missed: a replica may lag, a stream may have been purged.
func TestConfirm(t *testing.T) {
	s := situation{now: time.Now(), at: time.Hour, epoch: 2, up: true, maxAge: time.Minute, minTTL: time.Minute}
	for _, tt := range []struct {
		name   string
		rev    account.Rev
		change func(*entry, *held)
		want   bool
	}{
		{"the last that was heard", 5, nil, true},
		{"an older one", 4, nil, false},
		{"a newer one", 6, nil, false},
		{"something happened since", 5, func(_ *entry, h *held) { h.unsure = true }, false},
		{"a newer version is announced", 5, func(e *entry, _ *held) { e.announced = 8 }, false},
		{"as of a later epoch already", 5, func(_ *entry, h *held) { h.epoch = 2 }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := &entry{key: testKey(t, "openai.alice"), seen: 7, heard: 5}
			h := &held{token: Token{Key: e.key, Version: 7, ExpiresAt: s.now.Add(time.Hour)}, ends: 2 * time.Hour, checked: s.at, beside: 2 * s.at, epoch: 1}
			if tt.change != nil {
				tt.change(e, h)
			}
			e.held.Store(h)
			if got := e.confirm(events.Bump{Key: e.key, Version: 7, Rev: tt.rev}, 2, s); got != tt.want {
				t.Errorf("confirmed: %v", got)
			}
			if got := e.held.Load().fresh > s.at; got != tt.want {
				t.Errorf("served at once: %v", got)
			}
		})
	}
}

// A bump that is heard while a look-up has waited in vain is not spared away.
func TestP4SpareLeavesTheFloor(t *testing.T) {
	for name, happens := range map[string]func(*entry){
		"a newer version":        func(e *entry) { e.hear(events.Bump{Key: e.key, Version: 8, Rev: 6}) },
		"a refresh that ends it": func(e *entry) { e.hearBusy(2 * time.Hour) },
		"nothing":                func(*entry) {},
	} {
		t.Run(name, func(t *testing.T) {
			s := situation{now: time.Now(), at: time.Hour, epoch: 1, up: true, maxAge: time.Minute, minTTL: time.Minute}
			e := &entry{key: testKey(t, "openai.alice"), seen: 7, heard: 5}
			h := &held{token: Token{Key: e.key, Version: 7, ExpiresAt: s.now.Add(time.Hour)}, ends: 2 * time.Hour, epoch: 1}
			e.held.Store(h)
			happens(e)
			e.spare(s)
			if open := e.held.Load().fresh > s.at; open != (name == "nothing") {
				t.Errorf("the fast path is open: %v", open)
			}
		})
	}
}
