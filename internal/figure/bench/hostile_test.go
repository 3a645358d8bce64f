package bench

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/figure"
)

const (
	mib = 1 << 20
	// maxL1 is how many accounts a worker has in memory unless configured.
	maxL1 = 200_000
	// unknownSize is what one of them takes of which it is known that it does not
	// exist, in bytes: its place in the map, what is known, the view, and the
	// subject that the key is a part of. 510 were measured, and maps that have
	// just grown are half empty.
	unknownSize = 700
	// noise is what a server, a store's index and the figures of a round may
	// differ by from one look at the heap to the next, in bytes.
	noise = 16 * mib
	// serverKeeps is how much the embedded server keeps for a connection that does
	// not read, in bytes.
	serverKeeps = 256 * mib
	// workerKeeps is what the NATS library keeps of requests that the worker has
	// not come to: its default of so many, with subject and reply subject.
	workerKeeps = nats.DefaultSubPendingMsgsLimit * 256
)

// BenchmarkHostile is a gateway that asks steadily for the tokens of a thousand
// accounts, 2,000 times a second, while a hostile client does its worst to the
// only worker. p99 is the gateway's; the rival is the same gateway while the
// same client does the same to a bare echo on the same server, so that the
// machine and the server are as busy; for unknown keys the echo reads what the
// worker must read, or it would leave the machine alone. The second column has
// another rival: the gateway alone.
//
// All gateway's requests must be answered with a token, from memory; all the
// hostile client's with what they deserve. Memory is that of the live heap of
// this process, in which server and clients are too: what is left after the
// attack, and the most that a collection found during it, have bounds.
func BenchmarkHostile(b *testing.B) {
	b.Run("UnknownKeys", func(b *testing.B) {
		// A million keys in seven rounds, five times what memory holds; none twice.
		n, asked := figure.Size(4000, 143_000), 0
		hostile(b, attack{
			key:    "nobody-0",
			answer: events.CodeNotFound,
			reads:  true,
			run: func(f *fleet, t target) int {
				first := 1_000_000 + asked
				asked += n
				return f.flood(t, flood{requests: n, inFlight: 64, key: func(i int) string { return "nobody-" + strconv.Itoa(first+i) }})
			},
			left: func() int { return min(asked, maxL1) * unknownSize },
		})
	})
	b.Run("BigBodies", func(b *testing.B) {
		const inFlight = 4 // else they fill the connection, and nothing is said of the worker
		bodies := bigBodies()
		hostile(b, attack{
			key:    "user-000000",
			body:   bodies[0],
			answer: events.CodeBadRequest,
			run: func(f *fleet, t target) int {
				return f.flood(t, flood{requests: figure.Size(32, 500), inFlight: inFlight, body: func(i int) []byte { return bodies[i%len(bodies)] }})
			},
			// Each is with the client, twice with the server, with the worker, and
			// in what reads it there; buffers double as they grow.
			peak: inFlight * 8 * mib,
		})
	})
	b.Run("NeverReads", func(b *testing.B) {
		hostile(b, attack{
			key:  "user-000000",
			run:  func(f *fleet, t target) int { return f.neverReads(t) },
			peak: serverKeeps + workerKeeps,
		})
	})
	b.Run("OneAccount", func(b *testing.B) {
		hostile(b, attack{
			key: "user-000000",
			run: func(f *fleet, t target) int {
				return f.flood(t, flood{requests: figure.Size(10_000, 200_000), inFlight: 256})
			},
		})
	})
}

// attack is what a hostile client does.
type attack struct {
	key    string      // the account that is asked for, unless the flood says otherwise
	body   []byte      // an example of what is asked
	answer events.Code // what it is answered; "": a token
	run    func(f *fleet, t target) (requests int)
	reads  bool // the echo looks where the worker must look before it can answer
	// What it may cost, in bytes of live heap: while it runs, besides left, and
	// after it; both besides noise. nil, 0: nothing.
	peak int
	left func() int
}

// target is whom the hostile client asks.
type target struct {
	conn   *nats.Conn // the hostile client's
	role   bus.Role
	prefix string // of the subject; the account's id follows
	key    string
	answer events.Code
	length int // of an answer's body
}

func hostile(b *testing.B, a attack) {
	f := newFleet(b, fleetConfig{})
	accounts := keys(b, 0, figure.Size(100, 1000))
	f.logins(accounts)
	w := f.serves()
	w.warm(accounts)
	g := newGateway(b, f, f.requests(accounts))

	root := strings.TrimSuffix(f.requests(accounts)[0], accounts[0].ID())
	worker := target{connect(b, f.server, bus.RoleClient), bus.RoleClient, root, a.key, a.answer, 0}
	reply, err := worker.conn.Request(root+a.key, a.body, patience)
	check(b, err)
	if worker.length = len(reply.Data); !worker.right(reply) {
		b.Fatalf("the hostile client is answered %v %.100s", reply.Header, reply.Data)
	}
	// Clients may ask for tokens alone, so the echo's has another role.
	echo := target{connect(b, f.server, bus.RoleWorker), bus.RoleWorker, strings.Replace(root, ".request.", ".echo.", 1), a.key, a.answer, worker.length}
	echoes := connect(b, f.server, bus.RoleWorker)
	respond := func(m *nats.Msg) { _ = m.RespondMsg(&nats.Msg{Header: reply.Header, Data: reply.Data}) }
	if a.reads {
		respond = f.looks(echoes, respond)
	}
	_, err = echoes.Subscribe(echo.prefix+"*", respond)
	check(b, err)
	check(b, echoes.Flush())

	quiet := func() { <-time.After(time.Duration(figure.Size(300, 2000)) * time.Millisecond) }
	g.ask(b, quiet)
	base := live()
	var most, left int64
	var perSecond []float64
	figure.Compare(b,
		func() []float64 {
			before := w.Stats()
			var p99 float64
			var requests int
			var took time.Duration
			top := peak(func() {
				p99 = g.ask(b, func() {
					began := time.Now()
					requests = a.run(f, worker)
					took = time.Since(began)
				})
			})
			perSecond = append(perSecond, float64(requests)/took.Seconds())
			after, bound := w.Stats(), int64(noise)
			if a.left != nil {
				bound += int64(a.left())
			}
			elsewhere := after.Lookups[events.SourceShared] + after.Lookups[events.SourceStore] - before.Lookups[events.SourceShared] - before.Lookups[events.SourceStore]
			if after.L1Entries > maxL1 || elsewhere > int64(g.asked/100) {
				b.Fatalf("%d accounts in memory, and %d of %d look-ups were not answered from there", after.L1Entries, elsewhere, g.asked)
			}
			if w.conn.Stats().Reconnects > 0 {
				b.Fatal("the worker was cut off")
			}
			top -= base
			rest := live() - base
			if rest > bound || top > bound+int64(a.peak) {
				b.Fatalf("%d bytes more are live after the attack, and %d were at most during it; want no more than %d and %d", rest, top, bound, bound+int64(a.peak))
			}
			most, left = max(most, top), max(left, rest)
			return []float64{p99, p99}
		},
		func() []float64 {
			echoed := g.ask(b, func() { a.run(f, echo) })
			return []float64{echoed, g.ask(b, quiet)}
		},
		figure.Column{Name: "p99", Unit: "ns", AtMost: 2}, figure.Column{Name: "quiet", Unit: "ns", AtMost: 2})
	b.ReportMetric(figure.Median(perSecond), "hostile/s")
	b.ReportMetric(float64(most)/mib, "peak/MiB")
	b.ReportMetric(float64(left)/mib, "left/MiB")
}

// looks is an echo that first makes a bare read of the shared cache and one of
// the store, and answers when neither has the account.
func (f *fleet) looks(nc *nats.Conn, respond func(m *nats.Msg)) func(m *nats.Msg) {
	b := f.b
	b.Helper()
	js, err := jetstream.New(nc)
	check(b, err)
	cache, err := js.KeyValue(b.Context(), "TOKENBUS_CACHE")
	check(b, err)
	store, err := js.KeyValue(b.Context(), "TOKENBUS_ACCOUNTS")
	check(b, err)
	return func(m *nats.Msg) {
		go func() {
			key := m.Subject[strings.LastIndex(m.Subject, platform+"."):]
			_, first := cache.Get(b.Context(), key)
			_, second := store.Get(b.Context(), key)
			if errors.Is(first, jetstream.ErrKeyNotFound) && errors.Is(second, jetstream.ErrKeyNotFound) {
				respond(m)
			}
		}()
	}
}

// right reports whether m is the answer that the hostile client deserves.
func (t target) right(m *nats.Msg) bool {
	if t.answer == "" {
		return right(m)
	}
	return strings.HasPrefix(m.Header.Get("Nats-Service-Error"), string(t.answer)+":")
}

// flood is so many requests, of which so many at once wait for an answer.
type flood struct {
	requests, inFlight int
	key                func(i int) string // nil: the target's
	body               func(i int) []byte // nil: none
}

// flood returns when all are answered.
func (f *fleet) flood(t target, l flood) int {
	f.b.Helper()
	slots := make(chan struct{}, l.inFlight)
	var wrong atomic.Pointer[nats.Msg]
	inbox := t.conn.NewInbox()
	sub, err := t.conn.Subscribe(inbox, func(m *nats.Msg) {
		if !t.right(m) {
			wrong.Store(m)
		}
		<-slots
	})
	check(f.b, err)
	late := time.After(5 * patience) // of a hundred thousand requests
	take := func() {
		select {
		case slots <- struct{}{}:
		case <-late:
			f.b.Fatal("the hostile client is not answered")
		}
	}
	for i := range l.requests {
		key, body := t.key, []byte(nil)
		if l.key != nil {
			key = l.key(i)
		}
		if l.body != nil {
			body = l.body(i)
		}
		take()
		check(f.b, t.conn.PublishRequest(t.prefix+key, inbox, body))
	}
	for range l.inFlight { // all have come
		take()
	}
	check(f.b, sub.Unsubscribe())
	if m := wrong.Load(); m != nil {
		f.b.Fatalf("the hostile client is answered %v %.100s", m.Header, m.Data)
	}
	return l.requests
}

// bigBodies are of the largest size that the server takes, and wrong in ways
// that show when most of them, or all, was read.
func bigBodies() [][]byte {
	fill := func(head, some, tail string) []byte {
		n := mib - len(head) - len(tail)
		return []byte(head + strings.Repeat(some, n/len(some)+1)[:n] + tail)
	}
	return [][]byte{
		fill(`{"min_version":[1`, `,1`, `0]}`),
		fill(`{"timeout":"1`, `1`, `"}`),
		fill(`{"`, `x`, `x`),
	}
}

// neverReads asks 50,000 times a second, and does not read what is answered,
// until the server has cut it off. The NATS library has no such client: its
// connections read.
func (f *fleet) neverReads(t target) (requests int) {
	b := f.b
	b.Helper()
	conn := f.dial(t.role)
	defer conn.Close()
	check(b, conn.SetWriteDeadline(time.Now().Add(patience)))
	inbox := bus.InboxPrefix(t.role) + ".mute"
	_, err := fmt.Fprintf(conn, "SUB %s 1\r\n", inbox)
	check(b, err)
	const perTick = 50
	some := bytes.Repeat(fmt.Appendf(nil, "PUB %s%s %s 0\r\n\r\n", t.prefix, t.key, inbox), perTick)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		<-tick.C
		if _, err = conn.Write(some); err != nil {
			break
		}
		requests += perTick
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		b.Fatal("who does not read is not cut off")
	}
	if requests*t.length < 8*mib { // the two kernels keep that much
		b.Fatalf("cut off after %d requests: %v", requests, err)
	}
	return requests
}

// dial connects to the server, with the least room for what comes from there.
func (f *fleet) dial(role bus.Role) net.Conn {
	b := f.b
	b.Helper()
	conn, err := net.Dial("tcp", f.server.Addr())
	check(b, err)
	check(b, conn.(*net.TCPConn).SetReadBuffer(4096))
	in := bufio.NewReader(conn)
	line, err := in.ReadString('\n')
	check(b, err)
	var info struct {
		Nonce string `json:"nonce"`
	}
	check(b, json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), &info))
	seed, err := os.ReadFile(f.server.KeyFile(role))
	check(b, err)
	pair, err := nkeys.FromSeed(bytes.TrimSpace(seed))
	check(b, err)
	public, err := pair.PublicKey()
	check(b, err)
	signature, err := pair.Sign([]byte(info.Nonce))
	check(b, err)
	_, err = fmt.Fprintf(conn, "CONNECT {\"verbose\":false,\"pedantic\":false,\"protocol\":1,\"headers\":true,\"nkey\":%q,\"sig\":%q}\r\nPING\r\n",
		public, base64.RawURLEncoding.EncodeToString(signature))
	check(b, err)
	for line = ""; line != "PONG\r\n"; {
		line, err = in.ReadString('\n')
		check(b, err)
		if strings.HasPrefix(line, "-ERR") {
			b.Fatal(line)
		}
	}
	return conn
}

// gateway is a well-behaved client. It asks at a steady pace, whether earlier
// requests were answered or not.
type gateway struct {
	conn     *nats.Conn
	inbox    string
	subjects []string
	asked    int // the last time; of the caller

	mu    sync.Mutex // guards what follows
	began []time.Time
	took  []float64 // nanoseconds
	wrong string
	done  chan struct{} // closed when all are answered; nil as long as more are asked
}

func newGateway(b *testing.B, f *fleet, subjects []string) *gateway {
	b.Helper()
	g := &gateway{conn: connect(b, f.server, bus.RoleClient), subjects: subjects}
	g.inbox = g.conn.NewInbox() + "."
	_, err := g.conn.Subscribe(g.inbox+"*", g.got)
	check(b, err)
	check(b, g.conn.Flush())
	return g
}

// ask asks for as long as during takes, waits for what is missing, and returns
// the 99th percentile of the latency in nanoseconds.
func (g *gateway) ask(b *testing.B, during func()) float64 {
	b.Helper()
	runtime.GC() // what came before is not ours
	g.mu.Lock()
	g.began, g.took, g.done = nil, nil, nil
	g.mu.Unlock()
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() { stopped <- g.send(stop) }()
	func() {
		defer close(stop)
		during()
	}()
	check(b, <-stopped)
	done := make(chan struct{})
	g.mu.Lock()
	g.asked, g.done = len(g.began), done
	if len(g.took) == g.asked {
		close(done)
	}
	g.mu.Unlock()
	select {
	case <-done:
	case <-time.After(patience):
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.wrong != "" || len(g.took) != g.asked || g.asked == 0 {
		b.Fatalf("%d replies to %d requests of the gateway %s", len(g.took), g.asked, g.wrong)
	}
	return figure.Quantile(g.took, 0.99)
}

func (g *gateway) send(stop <-chan struct{}) error {
	const every = 500 * time.Microsecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	began := time.Now()
	for sent := 0; ; {
		for ; time.Duration(sent)*every < time.Since(began); sent++ {
			g.mu.Lock()
			g.began = append(g.began, time.Now())
			g.mu.Unlock()
			if err := g.conn.PublishRequest(g.subjects[sent%len(g.subjects)], g.inbox+strconv.Itoa(sent), nil); err != nil {
				return err
			}
		}
		select {
		case <-stop:
			return nil
		case <-tick.C:
		}
	}
}

func (g *gateway) got(m *nats.Msg) {
	now := time.Now()
	i, err := strconv.Atoi(m.Subject[len(g.inbox):])
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil || i >= len(g.began) || !right(m) {
		g.wrong = fmt.Sprintf("%v %.200s", m.Header, m.Data)
		return
	}
	g.took = append(g.took, float64(now.Sub(g.began[i])))
	if g.done != nil && len(g.took) == len(g.began) {
		close(g.done)
	}
}

// live returns the bytes in use after a collection.
func live() int64 {
	runtime.GC()
	runtime.GC() // what the first one only unlinked
	return marked()
}

// marked returns the bytes that the last collection found in use.
func marked() int64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	return int64(s[0].Value.Uint64())
}

// peak returns the most bytes that any collection found in use meanwhile.
func peak(during func()) int64 {
	stop, most := make(chan struct{}), make(chan int64, 1)
	go func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for top := int64(0); ; {
			top = max(top, marked())
			select {
			case <-stop:
				most <- top
				return
			case <-tick.C:
			}
		}
	}()
	func() {
		defer close(stop)
		during()
	}()
	return <-most
}
