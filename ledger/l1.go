package ledger

import (
	"bytes"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/maypok86/otter/v2"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/backoff"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/rotation"
)

// negativeMaxAge is how long "no such account" is believed.
const negativeMaxAge = time.Second

// Known is what this process knows of one account. It is immutable; changes
// replace it.
type Known struct {
	View *rotation.View // nil: nothing in hand, only a floor
	Busy time.Time      // until then a refresh runs somewhere that ends the old token at once

	floor   account.Rev // nothing below may be served: a bump said so
	checked time.Time   // when the view was last known to be the newest (monotonic reading included)
	epoch   int64       // the epoch of that check
	doubted time.Time   // when another look was last taken

	body       []byte // the encoded reply; View's token lies in it
	unmodified atomic.Pointer[[]byte]
}

// hold puts v in hand, with the reply that it makes.
func (k *Known) hold(v *rotation.View, body []byte) {
	k.View, k.body = v, body
	k.unmodified.Store(nil)
}

// encode returns the encoded reply of v, and v with the token that lies in it:
// most of what an account takes in L1 is its token, which is there once.
func encode(v *rotation.View) (*rotation.View, []byte) {
	if v.Token.IsZero() {
		return v, nil
	}
	body := v.Reply(events.SourceL1).Encode()
	token := v.Token.Reveal()
	i := bytes.Index(body, []byte(token))
	if i < 0 {
		return v, body // JSON spells it otherwise
	}
	lean := *v
	lean.Token = account.NewSecret(unsafe.String(&body[i], len(token))) // nobody writes into body
	return &lean, body
}

// Rev returns the newest rev that was heard of or is in hand; 0 of nil.
func (k *Known) Rev() account.Rev {
	switch {
	case k == nil:
		return 0
	case k.View == nil:
		return k.floor
	}
	return max(k.floor, k.View.Rev)
}

// Servable reports whether there is a view that no bump has overtaken.
func (k *Known) Servable() bool { return k != nil && k.View != nil && k.View.Rev >= k.floor }

// Body returns the encoded reply of a view with a token. It must not be changed.
func (k *Known) Body() []byte { return k.body }

// BodyFrom is Body with another source in it: a copy, which costs a small part
// of encoding the reply anew.
func (k *Known) BodyFrom(source events.Source) []byte {
	// Nothing before the field looks like it: within a text a quote has a backslash.
	const field = `"source":"`
	i := bytes.Index(k.body, []byte(field)) + len(field)
	n := bytes.IndexByte(k.body[i:], '"')
	return slices.Concat(k.body[:i], []byte(source), k.body[i+n:])
}

// NotModified returns the encoded reply to who has the view's version already,
// encoding it once.
func (k *Known) NotModified() []byte {
	if b := k.unmodified.Load(); b != nil {
		return *b
	}
	r := k.View.Reply(events.SourceL1)
	r.NotModified = true
	b := r.Encode()
	k.unmodified.Store(&b)
	return b
}

func (k *Known) clone() *Known {
	c := &Known{View: k.View, Busy: k.Busy, floor: k.floor, checked: k.checked, epoch: k.epoch, doubted: k.doubted, body: k.body}
	c.unmodified.Store(k.unmodified.Load())
	return c
}

// l1 is the process's own cache: what is known of accounts, of which those go
// first that are least used, and what bumps said of accounts that have no place
// in it.
type l1 struct {
	known  *otter.Cache[account.Key, *Known]
	floors floors
	// epoch rises when bumps may have been missed: entries of an older epoch
	// must be checked before they are served again.
	epoch atomic.Int64
	bumps atomic.Int64 // heard, that were news
}

func newL1(limit int) *l1 {
	c := &l1{}
	c.floors.init()
	c.known = otter.Must(&otter.Options[account.Key, *Known]{
		MaximumSize: max(1, limit),
		Executor:    func(work func()) { work() }, // on a goroutine of its own it falls behind, and what is used goes
		OnAtomicDeletion: func(e otter.DeletionEvent[account.Key, *Known]) {
			if e.WasEvicted() && e.Value.floor > 0 {
				c.floors.raise(e.Key, e.Value.floor) // before the entry is gone
			}
		},
	})
	return c
}

// get returns what is known of the account, or nil.
func (c *l1) get(key account.Key) *Known {
	k, _ := c.known.GetIfPresent(key)
	return k
}

// rev returns the newest rev of the account that was heard of or is in hand.
func (c *l1) rev(key account.Key) account.Rev {
	if k := c.get(key); k != nil {
		return k.Rev()
	}
	return c.floors.of(key) // also of one that was evicted since
}

// update replaces what is known by what f makes of a copy of it. f runs under
// a lock, must not block, and must not ask L1 for anything.
func (c *l1) update(key account.Key, f func(k *Known)) {
	c.known.Compute(key, func(old *Known, found bool) (*Known, otter.ComputeOp) {
		if !found {
			old = &Known{floor: c.floors.of(key)}
		}
		k := old.clone()
		f(k)
		return k, otter.WriteOp
	})
}

// Mark is what was heard of an account when a read elsewhere begins: what is
// heard after that may be newer than what the read brings.
type Mark struct {
	floor account.Rev
	epoch int64
}

func (c *l1) mark(key account.Key) Mark {
	m := Mark{epoch: c.epoch.Load()}
	if k := c.get(key); k != nil {
		m.floor = k.floor
	} else {
		m.floor = c.floors.of(key)
	}
	return m
}

// offer puts v in unless something newer is there, and returns the newest. m
// was taken before v was read. confirmed says that it was read from the store:
// then a floor above it that stood before the read is refuted, and offer
// reports that.
func (c *l1) offer(v *rotation.View, now time.Time, m Mark, confirmed bool) (newest *rotation.View, refuted bool) {
	v, body := encode(v)
	c.update(v.Key, func(k *Known) {
		if k.View == nil || v.Rev > k.View.Rev {
			k.Busy = time.Time{}
			k.hold(v, body)
		} else if v.Rev == k.View.Rev && !v.Gone {
			k.hold(v, body)
		}
		if v.Rev >= k.View.Rev {
			k.checked, k.epoch = now, m.epoch
		}
		if confirmed && k.floor > v.Rev && k.floor <= m.floor {
			refuted = true
			k.floor = 0
			c.floors.forget(v.Key)
		}
		newest = k.View
	})
	return newest, refuted
}

// Known returns what this process knows of the account, or nil. It does not
// block.
func (l *Ledger) Known(key account.Key) *Known { return l.l1.get(key) }

// Mark returns what was heard of the account by now.
func (l *Ledger) Mark(key account.Key) Mark { return l.l1.mark(key) }

// Fresh reports whether k may be served without a look elsewhere.
func (l *Ledger) Fresh(k *Known, now time.Time) bool {
	maxAge := l.cfg.Timing.L1MaxAge
	if k.View.Missing() {
		maxAge = negativeMaxAge
	}
	return k.Servable() && k.epoch == l.l1.epoch.Load() && now.Sub(k.checked) < maxAge
}

// Learn takes a document into L1 and returns the newest view.
func (l *Ledger) Learn(d *Document) *rotation.View {
	policy, _ := l.cfg.Policy(d.Key.Platform())
	v, refuted := l.l1.offer(rotation.ViewOf(&d.Account, d.Opened, policy), l.cfg.Clock.Now(), d.mark, true)
	if refuted {
		l.log.Warn("bump names a rev that the store does not have; ignored", "account", d.Key.String(), "rev", d.Rev)
	}
	return v
}

// Heard notes that a bump names a rev: nothing below it is served from here on.
func (l *Ledger) Heard(key account.Key, rev account.Rev) {
	if l.l1.heard(key, rev) {
		l.l1.bumps.Add(1)
	}
}

// heard raises the account's floor and reports whether that was news. It gives
// no place to an account that nobody has asked for.
func (c *l1) heard(key account.Key, rev account.Rev) (news bool) {
	c.known.Compute(key, func(old *Known, found bool) (*Known, otter.ComputeOp) {
		if !found {
			news = c.floors.raise(key, rev)
			return nil, otter.CancelOp
		}
		if old.floor >= rev {
			return old, otter.CancelOp
		}
		k := old.clone()
		k.floor = rev // also where it is in hand: the entry may be evicted
		if news = k.View == nil || k.View.Rev < rev; news {
			k.Busy = time.Time{}
			if k.View != nil && k.View.Missing() {
				k.hold(nil, nil) // "no such account" is history now
			}
		}
		return k, otter.WriteOp
	})
	return news
}

// SetBusy notes that a refresh runs that ends the old token at once, until
// then or, with the zero time, not any more.
func (l *Ledger) SetBusy(key account.Key, until time.Time) {
	if k := l.l1.get(key); until.IsZero() && (k == nil || k.Busy.IsZero()) {
		return
	}
	l.l1.update(key, func(k *Known) { k.Busy = until })
}

// Epoch counts the times that bumps may have been missed.
func (l *Ledger) Epoch() int64 { return l.l1.epoch.Load() }

// Resync is called when bumps may have been missed: nothing is served from L1
// any more before it was checked against the shared cache or the store.
func (l *Ledger) Resync() {
	for _, b := range []*backoff.Budget{l.cache, l.check, l.stranger} { // what was cut off may be there again
		b.Reset()
	}
	l.l1.epoch.Add(1)
}

// Bumps returns how many bumps were news.
func (l *Ledger) Bumps() int64 { return l.l1.bumps.Load() }

// Len returns how many accounts are in L1.
func (l *Ledger) Len() int { return l.l1.known.EstimatedSize() }
