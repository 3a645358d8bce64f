package bench

import (
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/internal/figure"
)

// askers are gateways: connections that ask for tokens.
type askers []*asker

// asker is one connection. It costs little beside a request: replies come to
// one subscription, whose subject says which request they are to.
type asker struct {
	conn  *nats.Conn
	inbox string

	mu sync.Mutex // guards all below
	load
	next, left, open int
	began            []time.Time // by slot: one request under way
	took             []float64   // nanoseconds, of each reply
	replies          [][]byte    // where they are kept
	first, last      time.Time   // when a reply came
	wrong            string      // the first reply that is none
	done             chan struct{}
}

// load is what is asked.
type load struct {
	subjects []string // in turn
	body     []byte
	requests int
	inFlight int
	keep     bool // the replies, to look at afterwards
}

// result is what came of a load.
type result struct {
	first   time.Duration // from the first request to the first reply
	all     time.Duration // from the first request to the last reply
	cpu     time.Duration // what this process had of the processors in that time
	took    []float64     // nanoseconds, of each reply
	replies [][]byte
}

// perSecond is how many were answered in a second.
func (r result) perSecond() float64 { return float64(len(r.took)) / r.all.Seconds() }

// cpuEach is the processor time of one request in nanoseconds: the askers', the
// server's and the responders', for all are in this process. Who else uses the
// machine moves it far less than what a clock on the wall shows.
func (r result) cpuEach() float64 { return float64(r.cpu) / float64(len(r.took)) }

func (r result) quantile(q float64) float64 { return figure.Quantile(r.took, q) }

func newAskers(b *testing.B, s *bus.Server, n int) askers {
	b.Helper()
	var list askers
	for range n {
		a := &asker{conn: connect(b, s, bus.RoleClient)}
		a.inbox = a.conn.NewInbox() + "."
		_, err := a.conn.Subscribe(a.inbox+"*", a.got)
		check(b, err)
		check(b, a.conn.Flush())
		list = append(list, a)
	}
	return list
}

// ask keeps so many requests in flight until all are answered. A reply that is
// an error, or none at all, ends the benchmark.
func (list askers) ask(b *testing.B, l load) result {
	b.Helper()
	runtime.GC() // what came before is not ours
	return list.askOn(b, l)
}

// askOn is ask in the midst of a round: what is left to collect, all share.
func (list askers) askOn(b *testing.B, l load) result {
	b.Helper()
	for i, a := range list {
		part := l
		part.requests = share(l.requests, len(list), i)
		part.inFlight = min(share(l.inFlight, len(list), i), part.requests)
		// Each account is asked for by one asker, as long as there are enough.
		part.subjects = l.subjects[len(l.subjects)*i/len(list) : len(l.subjects)*(i+1)/len(list)]
		if len(part.subjects) == 0 {
			part.subjects = l.subjects
		}
		a.prepare(part)
	}
	began, used := time.Now(), cpuUsed()
	var wg sync.WaitGroup
	for _, a := range list {
		wg.Go(a.start)
	}
	wg.Wait()
	late := time.After(patience)
	var r result
	for _, a := range list {
		select {
		case <-a.done:
		case <-late:
			b.Fatal("requests were not answered")
		}
		a.mu.Lock()
		if a.wrong != "" {
			b.Fatalf("not a token: %s", a.wrong)
		}
		r.took, r.replies = append(r.took, a.took...), append(r.replies, a.replies...)
		if first := a.first.Sub(began); len(a.took) > 0 && (r.first == 0 || first < r.first) {
			r.first = first
		}
		r.all = max(r.all, a.last.Sub(began))
		a.mu.Unlock()
	}
	r.cpu = cpuUsed() - used
	if len(r.took) != l.requests {
		b.Fatalf("%d replies to %d requests", len(r.took), l.requests)
	}
	return r
}

// turns makes two loads into the sides of [figure.Compare]. They take turns in so
// many parts of a round already, and each part begins with the other: what else
// the machine does lasts longer than a part, so it meets both alike. A round of
// both is made when its first side is asked for.
func turns(parts int, ours, rival func() result) (mine, theirs func() result) {
	sides := [2]func() result{ours, rival}
	var made [2]*result
	side := func(i int) func() result {
		return func() result {
			if made[i] == nil {
				runtime.GC()
				made = [2]*result{{}, {}}
				for part := range parts {
					made[part%2].add(sides[part%2]())
					made[1-part%2].add(sides[1-part%2]())
				}
			}
			r := made[i]
			made[i] = nil
			return *r
		}
	}
	return side(0), side(1)
}

// add adds a load that was asked after r. What is said of the first reply stays.
func (r *result) add(p result) {
	r.all, r.cpu, r.took, r.replies = r.all+p.all, r.cpu+p.cpu, append(r.took, p.took...), append(r.replies, p.replies...)
}

// share is the part of n that one of so many has.
func share(n, of, i int) int { return n*(i+1)/of - n*i/of }

func (a *asker) prepare(l load) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.load, a.next, a.left, a.open, a.wrong, a.replies = l, 0, l.requests, 0, "", nil
	a.began, a.took, a.done = make([]time.Time, l.inFlight), make([]float64, 0, l.requests), make(chan struct{})
	if l.requests == 0 {
		close(a.done)
	}
}

func (a *asker) start() {
	for slot := range a.inFlight {
		a.mu.Lock()
		a.send(slot)
		a.mu.Unlock()
	}
}

// send sends the next request; the caller holds mu.
func (a *asker) send(slot int) {
	if a.left == 0 {
		return
	}
	subject := a.subjects[a.next]
	a.next = (a.next + 1) % len(a.subjects)
	a.left--
	a.open++
	a.began[slot] = time.Now()
	if err := a.conn.PublishRequest(subject, a.inbox+strconv.Itoa(slot), a.body); err != nil {
		a.wrong = err.Error()
	}
}

func (a *asker) got(m *nats.Msg) {
	now := time.Now()
	slot, err := strconv.Atoi(m.Subject[len(a.inbox):])
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil || !right(m) {
		a.wrong = fmt.Sprint(m.Header, string(m.Data))
	}
	a.took = append(a.took, float64(now.Sub(a.began[slot])))
	if a.keep {
		a.replies = append(a.replies, m.Data)
	}
	if a.last = now; len(a.took) == 1 {
		a.first = now
	}
	a.open--
	if a.send(slot); a.open == 0 && a.left == 0 {
		close(a.done)
	}
}

// right reports whether it is a reply, and no error: those have a header.
func right(m *nats.Msg) bool { return len(m.Header) == 0 && len(m.Data) > 0 }
