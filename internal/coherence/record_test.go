package coherence_test

import (
	"sync"
	"time"

	"github.com/tokenbus/tokenbus/account"
)

// moment is the time since the record was begun, by the monotonic clock.
type moment = time.Duration

// record is all that was seen of a fleet and its clients.
type record struct {
	base    time.Time
	clients []*clientRecord
	workers []*workerRecord

	mu   sync.Mutex // guards what follows
	sent []event    // bumps
	late []violation
}

func newRecord() *record { return &record{base: time.Now()} }

func (r *record) now() moment { return time.Since(r.base) }

func (r *record) addClient(name string) *clientRecord {
	c := &clientRecord{record: r, name: name}
	r.clients = append(r.clients, c)
	return c
}

func (r *record) addWorker(name string) *workerRecord {
	w := &workerRecord{record: r, name: name}
	r.workers = append(r.workers, w)
	return w
}

// bumpSent notes a bump that was heard by nobody in particular.
func (r *record) bumpSent(key account.Key, v account.Version) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = append(r.sent, event{r.now(), key, v})
}

// event is about one account. What the version is, its list says.
type event struct {
	at      moment
	key     account.Key
	version account.Version
}

// served is what one look-up gave.
type served struct {
	event             // at: when it was over
	began      moment //
	expires    moment // zero: not known
	token      uint64 // which one it is, and not what it reads
	fromMemory bool
}

type why int

const (
	lost    why = iota // the connection
	back               // it is there again
	tooFast            // bumps came so
)

// notice is a client's notice that it may have missed bumps.
type notice struct {
	at      moment
	why     why
	returns int // of the connection, so far; known once they are in order
}

// clientRecord is what was seen of one client.
type clientRecord struct {
	*record
	name string

	mu      sync.Mutex // guards what follows
	served  []served
	heard   []event  // bumps
	refuted []event  // bumps that the client gave up as wrong
	asked   []event  // with min_version
	caught  []event  // last bumps that workers gave
	dialed  []moment // connections that came about
	closed  []moment // and ended
	flooded []moment // bumps are dropped from here on, or were until here
	noticed []notice

	bound int // look-ups that the rule about cuts said something about
}

func add[T any](c *clientRecord, list *[]T, x T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*list = append(*list, x)
}

// count returns how long a list is.
func count[T any](c *clientRecord, list *[]T) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(*list)
}

// answered is one answer of a worker.
type answered struct {
	event           // at: when it was made
	began    moment //
	min      account.Version
	rejected account.Version
}

// workerRecord is what was seen of one worker.
type workerRecord struct {
	*record
	name string

	mu       sync.Mutex // guards what follows
	answered []answered
	heard    []event  // bumps
	resynced []moment // cuts that were noticed
}

func (w *workerRecord) answer(a answered) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answered = append(w.answered, a)
}

func (w *workerRecord) hear(key account.Key, v account.Version) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.heard = append(w.heard, event{w.now(), key, v})
}

func (w *workerRecord) resync() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.resynced = append(w.resynced, w.now())
}

func (w *workerRecord) cuts() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.resynced)
}
