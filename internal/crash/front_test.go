//go:build linux

package crash_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"
)

// front stands between the workers and the token endpoints, over TCP on both
// sides of a worker's connection. It does to exchanges what it is ordered to,
// and keeps a ledger of all of them.
type front struct {
	web *httptest.Server

	mu        sync.Mutex // guards the rest, and the exchanges' fields
	endpoints map[string]http.Handler
	processes map[string]func() *process // by worker: which one runs now
	accounts  map[string]string          // refresh token to account
	ends      map[string]time.Time       // by access token; not before the endpoint says so
	ttl       time.Duration              // of access tokens
	ledger    []*exchange
	orders    []*order
}

// exchange is one token request as the front saw it.
type exchange struct {
	process *process
	account string
	refresh string // the token that came
	at      time.Time
	order   *order // what is done to it; nil: nothing

	reached  bool   // the endpoint saw it
	status   int    // of the endpoint's answer
	granted  bool   // the refresh token was spent, or was taken again
	access   string // what was granted
	next     string // the new refresh token
	fate     fate
	finished time.Time
}

// fate is what became of an answer, as far as the network can tell.
type fate string

const (
	pending  fate = "pending"
	cut      fate = "cut before it arrived"  // there was nothing to answer
	lost     fate = "answer lost on the way" // cut, or withheld until the worker gave up
	unread   fate = "answer in a dead socket"
	received fate = "read" // the process took it from its socket
)

// What can be done to an exchange.
const (
	cutBefore  = "cut before the request arrived"
	cutAfter   = "answer cut"
	holeBefore = "black hole before"
	holeAfter  = "black hole after"
	hold       = "answer late"
)

// order is one thing to be done to the next exchange that it fits.
type order struct {
	kind     string
	worker   string // "": any
	platform string // "": any
	release  <-chan struct{}
	taken    chan struct{} // closed when an exchange has met it
	done     chan struct{} // closed when that exchange is over
}

func newOrder(kind, worker, platform string) *order {
	return &order{kind: kind, worker: worker, platform: platform, taken: make(chan struct{}), done: make(chan struct{})}
}

func newFront(t *testing.T, ttl time.Duration) *front {
	f := &front{
		endpoints: map[string]http.Handler{}, processes: map[string]func() *process{},
		accounts: map[string]string{}, ends: map[string]time.Time{}, ttl: ttl,
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /{worker}/{platform}/token", f.serve)
	f.web = httptest.NewServer(mux)
	t.Cleanup(f.web.Close)
	return f
}

// tokenURL is where the worker finds the platform's endpoint.
func (f *front) tokenURL(worker, platform string) string {
	return fmt.Sprintf("%s/%s/%s/token", f.web.URL, worker, platform)
}

// owns notes whose tokens these are: of a login.
func (f *front) owns(account, refresh, access string, ends time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.accounts[refresh] = account
	f.ends[access] = ends
}

// endOf returns when the access token ends, if it was ever issued.
func (f *front) endOf(access string) (time.Time, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ends, ok := f.ends[access]
	return ends, ok
}

// arm gives an order.
func (f *front) arm(o *order) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.orders = append(f.orders, o)
}

// disarm takes back an order; false if an exchange has met it.
func (f *front) disarm(o *order) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.orders)
	f.orders = slices.DeleteFunc(f.orders, func(p *order) bool { return p == o })
	return len(f.orders) < n
}

func (f *front) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // killed in the middle of its request
	}
	x := f.arrived(r, body)
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	end := f.pass(x, r, body, conn.(*net.TCPConn))
	f.mu.Lock()
	defer f.mu.Unlock()
	x.fate, x.finished = end, time.Now()
	if x.order != nil {
		close(x.order.done)
	}
}

func (f *front) arrived(r *http.Request, body []byte) *exchange {
	worker, platform := r.PathValue("worker"), r.PathValue("platform")
	values, _ := url.ParseQuery(string(body))
	f.mu.Lock()
	defer f.mu.Unlock()
	x := &exchange{process: f.processes[worker](), refresh: values.Get("refresh_token"), at: time.Now(), fate: pending}
	x.account = f.accounts[x.refresh]
	f.ledger = append(f.ledger, x)
	for i, o := range f.orders {
		if (o.worker == "" || o.worker == worker) && (o.platform == "" || o.platform == platform) {
			f.orders = slices.Delete(f.orders, i, i+1)
			x.order = o
			close(o.taken)
			break
		}
	}
	return x
}

// pass brings the request to the endpoint and the answer back, or not.
func (f *front) pass(x *exchange, r *http.Request, body []byte, conn *net.TCPConn) fate {
	kind := ""
	if x.order != nil {
		kind = x.order.kind
	}
	switch kind {
	case cutBefore:
		return cut
	case holeBefore:
		awaitEnd(conn)
		return cut
	}
	answer := f.ask(x, r, body)
	switch kind {
	case cutAfter:
		return lost
	case holeAfter:
		awaitEnd(conn)
		return lost
	case hold:
		<-x.order.release
	}
	return deliver(conn, answer)
}

// ask asks the endpoint and notes what it says.
func (f *front) ask(x *exchange, r *http.Request, body []byte) []byte {
	f.mu.Lock()
	endpoint := f.endpoints[r.PathValue("platform")]
	x.reached = true
	f.mu.Unlock()
	onward := r.Clone(r.Context())
	onward.URL.Path, onward.Body, onward.ContentLength = "/token", io.NopCloser(bytes.NewReader(body)), int64(len(body))
	recorder := httptest.NewRecorder()
	endpoint.ServeHTTP(recorder, onward)
	var tokens struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
	}
	_ = json.Unmarshal(recorder.Body.Bytes(), &tokens)
	f.mu.Lock()
	x.status, x.granted, x.access, x.next = recorder.Code, recorder.Code == http.StatusOK, tokens.Access, tokens.Refresh
	if x.granted {
		f.accounts[x.next] = x.account
		f.ends[x.access] = time.Now().Add(f.ttl)
	}
	f.mu.Unlock()
	resp := recorder.Result()
	resp.Close, resp.ContentLength = true, int64(recorder.Body.Len())
	var raw bytes.Buffer
	_ = resp.Write(&raw)
	return raw.Bytes()
}

// deliver writes the answer in one piece and finds out whether the process has
// read it.
func deliver(conn *net.TCPConn, answer []byte) fate {
	_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, err := conn.Read(make([]byte, 1)); !isTimeout(err) {
		return unread // gone before there was an answer
	}
	if _, err := conn.Write(answer); err != nil {
		return unread
	}
	_ = conn.CloseWrite()
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := conn.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
		return received
	}
	return unread
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// awaitEnd waits until the other side has given up.
func awaitEnd(conn *net.TCPConn) {
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
	_, _ = conn.Read(make([]byte, 1))
}

// snapshot is the ledger as it is now.
func (f *front) snapshot() []exchange {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make([]exchange, len(f.ledger))
	for i, x := range f.ledger {
		all[i] = *x
	}
	return all
}

// rotations counts the exchanges that were granted.
func (f *front) rotations() int {
	n := 0
	for _, x := range f.snapshot() {
		if x.granted {
			n++
		}
	}
	return n
}

// of returns the ledger of one account.
func (f *front) of(account string) []exchange {
	return slices.DeleteFunc(f.snapshot(), func(x exchange) bool { return x.account != account })
}
