package lookup

import (
	"container/list"
	"sync"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/rotation"
)

// waiter is a request that is not answered yet.
type waiter struct {
	key    account.Key
	req    events.TokenRequest
	rounds int  // refreshes that it has waited for
	join   bool // it waits for the end of one alone, whatever comes of that
	end    func(*outcome)
	timer  *time.Timer // ends it at its deadline

	// What crowds.mu guards.
	in    *list.List // the crowd that it is in; nil: none just now
	place *list.Element
	late  bool // its deadline has passed while it was in none
}

// outcome is the answer to a request, or to many.
type outcome struct {
	err    *events.Error
	view   *rotation.View // that serves them
	source events.Source
	brief  bool          // they have its version: no token is sent
	known  *ledger.Known // the same view in memory; nil: it is not there
	body   []byte        // the reply, encoded; nil: not yet
}

// reply is for who wants no bytes.
func (o *outcome) reply() events.TokenReply {
	r := o.view.Reply(o.source)
	r.NotModified = o.brief
	return r
}

// encoded is for one goroutine at a time.
func (o *outcome) encoded() []byte {
	switch {
	case o.body != nil:
	case o.known != nil && !o.brief:
		o.body = o.known.BodyFrom(o.source)
	default:
		o.body = o.reply().Encode()
	}
	return o.body
}

// crowds are the requests that wait, by what they wait for: a look elsewhere
// (search) or a refresh (*refresh.Flight). Whoever takes a request out of its
// crowd answers it or puts it into the next one; so it is answered once.
type crowds struct {
	mu sync.Mutex // guards m, the lists in it, and where each waiter is
	m  map[any]*list.List
}

// join puts w into the crowd that waits for what. first says that it is the
// first in it: then the caller sees to it that disband is called. ok is false
// if w's deadline has passed: then it is in no crowd.
func (cs *crowds) join(what any, w *waiter) (first, ok bool) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if w.late {
		return false, false
	}
	c := cs.m[what]
	if first = c == nil; first {
		c = list.New()
		cs.m[what] = c
	}
	w.in, w.place = c, c.PushBack(w)
	return first, true
}

// disband ends a crowd and returns who was in it, in the order of their coming.
func (cs *crowds) disband(what any) []*waiter {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c := cs.m[what]
	if c == nil {
		return nil
	}
	delete(cs.m, what)
	all := make([]*waiter, 0, c.Len())
	for e := c.Front(); e != nil; e = e.Next() {
		w := e.Value.(*waiter)
		w.in, w.place = nil, nil
		all = append(all, w)
	}
	return all
}

// leave takes w, whose deadline has passed, out of its crowd and returns true.
// Where it is in none just now, who took it out will come to know.
func (cs *crowds) leave(w *waiter) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if w.in == nil {
		w.late = true
		return false
	}
	w.in.Remove(w.place)
	w.in, w.place = nil, nil
	return true
}
