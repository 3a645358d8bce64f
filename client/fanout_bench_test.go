package client

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/rig"
)

// A bump to a thousand clients, each with a connection of its own over loopback
// TCP, against a bare NATS message of the same size to the same connections. The
// two take turns. Times are from the call that publishes: of a bump that is the
// worker's publisher, which looks at the last bump and has the stream check that
// it is still the last.
//
//   - Heard: until the client has taken the bump in, and serves nothing older.
//   - Served: until it hands out the new version, all thousand asking one worker
//     at once; the rival asks a bare echo when it gets the message.
//   - Interest: ten thousand accounts of which each client uses ten; until those
//     who use it have heard. The rival subscribes to each account by itself.
//
//	go test -run '^$' -bench Fanout -benchtime 40x -count 6 ./client

const (
	fanoutPeers    = 1000
	fanoutAccounts = 10_000
	fanoutEach     = 10 // accounts that a peer uses
)

// peer is one client.
type peer struct {
	c      *Client
	keys   []account.Key
	bumped atomic.Pointer[func(*nats.Msg)] // after the client has taken a bump in
}

// fanout is a server with one worker and many clients.
type fanout struct {
	worker    *nats.Conn
	publisher *bus.Publisher
	subjects  events.Subjects
	peers     []*peer

	mu      sync.Mutex // guards version
	version map[account.Key]account.Version
}

func newFanout(b *testing.B, keysOf func(i int) []account.Key) *fanout {
	f := &fanout{version: map[account.Key]account.Version{}}
	var err error
	fail := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	f.subjects, err = events.NewSubjects(events.DefaultPrefix)
	fail(err)
	s := rig.NATS(b, func(o *server.Options) { o.SyncAlways = true })
	f.worker, err = nats.Connect(s.ClientURL())
	fail(err)
	b.Cleanup(f.worker.Close)
	js, err := jetstream.New(f.worker)
	fail(err)
	fail(bus.EnsureStreams(b.Context(), js, bus.StreamsConfig{Subjects: f.subjects}))
	f.publisher, err = bus.NewPublisher(bus.PublisherConfig{Conn: f.worker, Subjects: f.subjects, Source: "worker"})
	fail(err)
	_, err = f.worker.QueueSubscribe(f.subjects.AllRequests(), events.QueueGroup, func(m *nats.Msg) {
		key, _ := f.subjects.ParseRequest(m.Subject)
		f.mu.Lock()
		v := f.version[key]
		f.mu.Unlock()
		_ = m.Respond(events.TokenReply{Key: key, Version: v, AccessToken: account.NewSecret("t"), ExpiresAt: time.Now().Add(time.Hour)}.Encode())
	})
	fail(err)
	_, err = f.worker.Subscribe("echo", func(m *nats.Msg) { _ = m.Respond(m.Data) })
	fail(err)
	for i := range fanoutPeers {
		f.peers = append(f.peers, f.newPeer(b, s.ClientURL(), keysOf(i)))
	}
	return f
}

// newPeer connects a client whose subscription to bumps tells us when each was
// taken in.
func (f *fanout) newPeer(b *testing.B, url string, keys []account.Key) *peer {
	c, err := New(Config{URL: url, MaxAge: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	p := &peer{c: c, keys: keys}
	sub, err := c.nc.Subscribe("tokenbus.v1.bump.openai.*", func(m *nats.Msg) {
		c.ears.hearBump(m)
		if f := p.bumped.Load(); f != nil {
			(*f)(m)
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	c.ears.mu.Lock()
	c.ears.watch(sub)
	c.ears.subs["openai"] = []*nats.Subscription{sub}
	c.ears.mu.Unlock()
	for _, key := range keys {
		f.mu.Lock()
		f.version[key] = 1
		f.mu.Unlock()
		if _, err := c.Token(b.Context(), key); err != nil {
			b.Fatal(err)
		}
	}
	return p
}

// bare subscribes each peer to what the rival sends.
func (f *fanout) bare(b *testing.B, subjectsOf func(p *peer) []string, got func(p *peer, m *nats.Msg)) {
	for _, p := range f.peers {
		for _, subject := range subjectsOf(p) {
			if _, err := p.c.nc.Subscribe(subject, func(m *nats.Msg) { got(p, m) }); err != nil {
				b.Fatal(err)
			}
		}
		if err := p.c.nc.Flush(); err != nil {
			b.Fatal(err)
		}
	}
}

// round is what one message to many is measured with.
type round struct {
	began time.Time
	left  sync.WaitGroup
	n     atomic.Int64
	took  []time.Duration
}

// newRound expects that many to come.
func newRound(expected int) *round {
	r := &round{took: make([]time.Duration, expected)}
	r.left.Add(expected)
	r.began = time.Now()
	return r
}

func (r *round) came() {
	took := time.Since(r.began)
	r.took[r.n.Add(1)-1] = took
	r.left.Done()
}

// results are of all rounds of one of the two.
type results struct {
	p50, p99 []float64 // of each round, in milliseconds
	all      []float64
}

func (r *results) add(of *round) {
	of.left.Wait()
	var took []float64
	for _, d := range of.took {
		took = append(took, float64(d)/float64(time.Millisecond))
	}
	r.p50, r.p99, r.all = append(r.p50, at(took, 50)), append(r.p99, at(took, 99)), append(r.all, took...)
}

func at(list []float64, percent int) float64 {
	list = slices.Sorted(slices.Values(list))
	return list[min(len(list)-1, len(list)*percent/100)]
}

// report gives the median of the rounds, and of the ratios of two rounds that
// followed one another: one round in which the machine did something else says
// little. all-p99 is over all rounds, with those.
func report(b *testing.B, bare, ours results) {
	var ratios []float64
	for i := range ours.p99 {
		ratios = append(ratios, ours.p99[i]/bare.p99[i])
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(at(bare.p50, 50), "bare-p50-ms")
	b.ReportMetric(at(bare.p99, 50), "bare-p99-ms")
	b.ReportMetric(at(ours.p50, 50), "bump-p50-ms")
	b.ReportMetric(at(ours.p99, 50), "bump-p99-ms")
	b.ReportMetric(at(ratios, 50), "p99/bare")
	b.ReportMetric(at(ours.all, 99)/at(bare.all, 99), "all-p99/bare")
}

// turns lets the two take turns in who is first.
func turns(n *int, one, other func()) {
	if *n++; *n%2 == 0 {
		one, other = other, one
	}
	one()
	other()
}

// next gives the account its next version and returns what tells the world.
func (f *fanout) next(key account.Key) events.Bump {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.version[key]++
	v := f.version[key]
	return events.Bump{Key: key, Version: v, Rev: account.Rev(v), At: time.Now()}
}

func (f *fanout) bump(b *testing.B, bump events.Bump) {
	if err := f.publisher.Bump(b.Context(), bump); err != nil {
		b.Fatal(err)
	}
}

func (f *fanout) send(b *testing.B, subject string, bump events.Bump) {
	if err := f.worker.PublishMsg(&nats.Msg{Subject: subject, Header: bump.Header("worker"), Data: bump.Encode()}); err != nil {
		b.Fatal(err)
	}
}

// each calls now for each peer that has taken in what the round is about.
func (f *fanout) each(now func(p *peer, m *nats.Msg)) {
	for _, p := range f.peers {
		p.bumped.Store(new(func(m *nats.Msg) { now(p, m) }))
	}
}

func BenchmarkFanout(b *testing.B) {
	b.Run("heard", benchHeard)
	b.Run("served", benchServed)
	b.Run("interest", benchInterest)
}

func oneAccount(b *testing.B) account.Key {
	key, err := account.ParseKey("openai.alice")
	if err != nil {
		b.Fatal(err)
	}
	return key
}

func benchHeard(b *testing.B) {
	key := oneAccount(b)
	f := newFanout(b, func(int) []account.Key { return []account.Key{key} })
	var now atomic.Pointer[round]
	f.each(func(*peer, *nats.Msg) { now.Load().came() })
	f.bare(b, func(*peer) []string { return []string{"bare"} }, func(*peer, *nats.Msg) { now.Load().came() })
	var bare, ours results
	n := 0
	for b.Loop() {
		bump := f.next(key)
		for _, p := range f.peers {
			p.c.memory.get(key).used.Store(false) // nobody asks ahead, which is another matter
		}
		turns(&n, func() {
			now.Store(newRound(fanoutPeers))
			f.send(b, "bare", bump)
			bare.add(now.Load())
		}, func() {
			now.Store(newRound(fanoutPeers))
			f.bump(b, bump)
			ours.add(now.Load())
		})
	}
	report(b, bare, ours)
}

func benchServed(b *testing.B) {
	key := oneAccount(b)
	f := newFanout(b, func(int) []account.Key { return []account.Key{key} })
	var now atomic.Pointer[round]
	var want atomic.Int64 // a version
	// Whoever has heard looks up what it may hand out now, as a gateway's next
	// request does.
	f.each(func(p *peer, _ *nats.Msg) {
		go func() {
			token, err := p.c.Token(b.Context(), key)
			if err != nil || int64(token.Version) != want.Load() {
				b.Errorf("got %v, %v; want version %d", token, err, want.Load())
			}
			now.Load().came()
		}()
	})
	f.bare(b, func(*peer) []string { return []string{"bare"} }, func(p *peer, m *nats.Msg) {
		go func() {
			if _, err := p.c.nc.Request("echo", m.Data, time.Minute); err != nil {
				b.Error(err)
			}
			now.Load().came()
		}()
	})
	var bare, ours results
	n := 0
	for b.Loop() {
		bump := f.next(key)
		want.Store(int64(bump.Version))
		turns(&n, func() {
			now.Store(newRound(fanoutPeers))
			f.send(b, "bare", bump)
			bare.add(now.Load())
		}, func() {
			now.Store(newRound(fanoutPeers))
			f.bump(b, bump)
			ours.add(now.Load())
		})
	}
	report(b, bare, ours)
}

func benchInterest(b *testing.B) {
	draw := rand.New(rand.NewPCG(1, 2))
	uses := map[account.Key][]*peer{}
	var keys []account.Key
	for i := range fanoutAccounts {
		key, err := account.NewKey("openai", fmt.Sprintf("user-%05d", i))
		if err != nil {
			b.Fatal(err)
		}
		keys = append(keys, key)
	}
	f := newFanout(b, func(int) []account.Key {
		var some []account.Key
		for range fanoutEach {
			some = append(some, keys[draw.IntN(len(keys))])
		}
		slices.SortFunc(some, func(a, b account.Key) int { return strings.Compare(a.String(), b.String()) })
		return slices.Compact(some)
	})
	for _, p := range f.peers {
		for _, key := range p.keys {
			uses[key] = append(uses[key], p)
		}
	}
	var now, all atomic.Pointer[round]
	f.each(func(p *peer, m *nats.Msg) {
		if key, _ := account.ParseKey(m.Subject[len("tokenbus.v1.bump."):]); slices.Contains(p.keys, key) {
			now.Load().came()
		}
		all.Load().came()
	})
	f.bare(b, func(p *peer) (subjects []string) {
		for _, key := range p.keys {
			subjects = append(subjects, "bare."+key.String())
		}
		return subjects
	}, func(*peer, *nats.Msg) { now.Load().came() })
	var bare, ours, everybody results
	n := 0
	for b.Loop() {
		for range 20 {
			key := keys[draw.IntN(len(keys))]
			interested := len(uses[key])
			if interested == 0 {
				continue
			}
			bump := f.next(key)
			turns(&n, func() {
				now.Store(newRound(interested))
				f.send(b, "bare."+key.String(), bump)
				bare.add(now.Load())
			}, func() {
				all.Store(newRound(fanoutPeers))
				now.Store(newRound(interested))
				f.bump(b, bump)
				ours.add(now.Load())
				everybody.add(all.Load()) // so that nothing of it meets the next
			})
		}
	}
	report(b, bare, ours)
	b.ReportMetric(at(everybody.p99, 50), "everybody-p99-ms")
}
