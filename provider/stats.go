package provider

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/tokenbus/tokenbus/events"
)

// Stats are counters since the start and gauges of now, for metrics.
type Stats struct {
	Lookups   map[events.Source]int64 // answered, by where the token was found
	Errors    map[events.Code]int64   // refused, by code
	Exchanges map[Exchange]int64      // requests to token endpoints
	Bumps     int64                   // heard, that were news
	Journaled int64                   // answers that had to wait in the journal
	Replayed  int64                   // answers settled from the journal

	JournalWaiting int64 // records at the last sweep
	Flights        int   // refreshes that run
	L1Entries      int
}

// Exchange labels an exchange count.
type Exchange struct {
	Platform string
	Outcome  Outcome
}

type stats struct {
	l1, shared, store, refresh atomic.Int64
	bumps, journaled, replayed atomic.Int64
	waiting                    atomic.Int64
	undone, doubtful           atomic.Int64 // outcomes that a stop left: in a journal, nowhere

	mu        sync.Mutex // guards the maps
	errors    map[events.Code]int64
	exchanges map[Exchange]int64
}

func (s *stats) init() {
	s.errors, s.exchanges = map[events.Code]int64{}, map[Exchange]int64{}
}

func (s *stats) lookup(source events.Source) {
	switch source {
	case events.SourceL1:
		s.l1.Add(1)
	case events.SourceShared:
		s.shared.Add(1)
	case events.SourceStore:
		s.store.Add(1)
	case events.SourceRefresh:
		s.refresh.Add(1)
	}
}

func (s *stats) failed(code events.Code) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errors[code]++
}

func (s *stats) exchanged(platform string, outcome Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exchanges[Exchange{platform, outcome}]++
}

// Stats returns a snapshot.
func (p *Provider) Stats() Stats {
	s := &p.stats
	out := Stats{
		Lookups: map[events.Source]int64{
			events.SourceL1: s.l1.Load(), events.SourceShared: s.shared.Load(),
			events.SourceStore: s.store.Load(), events.SourceRefresh: s.refresh.Load(),
		},
		Bumps: s.bumps.Load(), Journaled: s.journaled.Load(), Replayed: s.replayed.Load(),
		JournalWaiting: s.waiting.Load(), Flights: p.flights.len(), L1Entries: p.l1.len(),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out.Errors, out.Exchanges = maps.Clone(s.errors), maps.Clone(s.exchanges)
	return out
}
