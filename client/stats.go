package client

import (
	"sync/atomic"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// Stats are counts since [New], but for Connected and Accounts, which are as of
// now.
type Stats struct {
	Connected bool // to NATS
	Accounts  int  // in memory

	Hits     int64 // look-ups answered from memory
	Asked    int64 // questions to the fleet; look-ups share them
	Failed   int64 // of these, that ended with an error
	Requests int64 // that the questions took: more than one where a worker was silent or failed
	Bumps    int64 // heard, about accounts in memory, and news
	Missed   int64 // times that bumps may have been missed
	CaughtUp int64 // accounts that were found unchanged after that
	Evicted  int64 // accounts that went for want of room
}

// Stats returns the counts. It is cheap enough to be called by each scrape of a
// metrics endpoint.
func (c *Client) Stats() Stats {
	known, evicted := c.memory.len()
	return Stats{
		Connected: c.nc.IsConnected(), Accounts: known,
		Hits: c.hits.load(), Asked: c.counts.asked.Load(), Failed: c.counts.failed.Load(), Requests: c.counts.requests.Load(),
		Bumps: c.counts.bumps.Load(), Missed: c.counts.cuts.Load(), CaughtUp: c.counts.caughtUp.Load(), Evicted: evicted,
	}
}

type counts struct{ asked, failed, requests, bumps, cuts, caughtUp atomic.Int64 }

// Hooks are called, where not nil, when something happens. They may be called
// at the same time and must not block.
type Hooks struct {
	// Asked is called when a question to the fleet has ended.
	Asked func(Asked)
	// Missed is called when bumps may have been missed, such as when the
	// connection is lost and when it is back.
	Missed func(why string)
	// CaughtUp is called when tokens in memory were held against the fleet's
	// last bumps: of so many that were used, so many are as they were.
	CaughtUp func(used, unchanged int, took time.Duration)
}

// Asked is one question to the fleet, which any number of look-ups may have
// waited for, or none.
type Asked struct {
	Key      account.Key
	Version  account.Version // of the token
	Source   events.Source   // of the token
	Err      error           // why there is none
	Took     time.Duration
	Requests int // that it took
}
