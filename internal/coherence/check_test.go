package coherence_test

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
)

// violation is a rule that was broken, and how.
type violation struct{ rule, text string }

func (v violation) String() string { return "violation of " + v.rule + ": " + v.text }

// justNow is how long after it a cut may be recorded: a library that gives a
// connection up closes it a moment later.
const justNow = 100 * time.Millisecond

// greeting is how long after it came about a connection may send what was held
// back for it.
const greeting = time.Second

// judge holds a record against the rules. A question takes no longer than
// patience. What is recorded meanwhile may be left out.
func (r *record) judge(patience time.Duration) (found []violation) {
	r.mu.Lock()
	found = slices.Clone(r.late)
	r.mu.Unlock()
	report := func(rule, format string, args ...any) {
		found = append(found, violation{rule, fmt.Sprintf(format, args...)})
	}
	tokens := map[account.Key]map[account.Version]uint64{}
	for _, c := range r.clients {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.sort()
		c.fall(report)
		c.bumps(report)
		c.cuts(report)
		c.minVersions(patience, report)
		for _, s := range c.served {
			if s.expires != 0 && s.expires <= s.began {
				report("token", "%s gave %s of %s at %s, which had ended at %s", c.name, versioned(s.version), s.key, s.began, s.expires)
			}
			of := tokens[s.key]
			if of == nil {
				of = map[account.Version]uint64{}
				tokens[s.key] = of
			}
			if other, ok := of[s.version]; ok && other != s.token {
				report("token", "%s gave another token as %s of %s", c.name, versioned(s.version), s.key)
			}
			of[s.version] = s.token
		}
	}
	for _, w := range r.workers {
		w.mu.Lock()
		defer w.mu.Unlock()
		slices.Sort(w.resynced)
	}
	r.mu.Lock()
	sent := highest(r.sent)
	r.mu.Unlock()
	for _, w := range r.workers {
		w.check(sent, report)
	}
	return found
}

type reporter func(rule, format string, args ...any)

func versioned(v account.Version) string { return fmt.Sprintf("version %d", v) }

// peaks tells, by account, the highest version of all events before a moment.
type peaks map[account.Key][]event

func highest(list []event) peaks {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	p := peaks{}
	for _, e := range list {
		of := p[e.key]
		if n := len(of); n > 0 && of[n-1].version >= e.version {
			continue
		}
		p[e.key] = append(of, e)
	}
	return p
}

// before returns the highest of what was before t; zero if nothing was.
func (p peaks) before(key account.Key, t moment) event {
	of := p[key]
	n := sort.Search(len(of), func(i int) bool { return of[i].at >= t })
	if n == 0 {
		return event{}
	}
	return of[n-1]
}

func (c *clientRecord) given() peaks {
	var list []event
	for _, s := range c.served {
		list = append(list, s.event)
	}
	return highest(list)
}

func (c *clientRecord) fall(report reporter) {
	given := c.given()
	for _, s := range c.served {
		if b := given.before(s.key, s.began); b.version > s.version {
			report("fall", "%s gave version %d of %s until %s, and version %d to a look-up of %s", c.name, b.version, s.key, b.at, s.version, s.began)
		}
	}
}

func (c *clientRecord) bumps(report reporter) {
	heard := highest(c.heard)
	for _, s := range c.served {
		if b := heard.before(s.key, s.began); b.version > s.version {
			report("bump", "%s heard at %s of version %d of %s, and gave version %d to a look-up of %s", c.name, b.at, b.version, s.key, s.version, s.began)
		}
	}
	for _, e := range c.refuted {
		report("bump", "%s gave up a bump of version %d of %s at %s", c.name, e.version, e.key, e.at)
	}
}

func (c *clientRecord) minVersions(patience time.Duration, report reporter) {
	given := c.given()
	for _, q := range c.asked {
		asked := q.at
		// What is asked while there is no connection goes out with the next one.
		if dialed, ok := last(c.dialed, q.at); ok && q.at-dialed < greeting {
			if closed, ok := last(c.closed, dialed); ok {
				asked = closed
			}
		}
		if b := given.before(q.key, asked-patience); b.version > q.version {
			report("min_version", "%s gave version %d of %s at %s, and asked with min_version %d at %s", c.name, b.version, q.key, b.at, q.version, q.at)
		}
	}
}

// sort brings what several goroutines noted into order.
func (c *clientRecord) sort() {
	slices.Sort(c.dialed)
	slices.Sort(c.closed)
	slices.Sort(c.flooded)
	slices.SortFunc(c.noticed, func(a, b notice) int { return cmp.Compare(a.at, b.at) })
	for i := range c.noticed {
		n := &c.noticed[i]
		if i > 0 {
			n.returns = c.noticed[i-1].returns
		}
		if n.why == back {
			n.returns++
		}
	}
}

// cuts checks the look-ups since each notice of a cut.
func (c *clientRecord) cuts(report reporter) {
	looked := map[account.Key][]moment{} // after: by a question or in the stream
	for _, list := range [][]event{c.asked, c.caught} {
		for _, e := range list {
			looked[e.key] = append(looked[e.key], e.at)
		}
	}
	for _, of := range looked {
		slices.Sort(of)
	}
	for _, s := range c.served {
		n, since, ok := c.missed(s.began)
		if !ok || !s.fromMemory || c.cutOff(n, s.at) {
			continue
		}
		c.bound++
		of := looked[s.key]
		if i, _ := slices.BinarySearch(of, since); i == len(of) || of[i] > s.at {
			report("cut", "%s noticed at %s that it may have missed bumps since %s, and gave version %d of %s from memory to a look-up of %s without looking after it; %s",
				c.name, n.at, since, s.version, s.key, s.began, c.story(s))
		}
	}
}

// story tells what was seen before a look-up, for whoever looks for the reason.
func (c *clientRecord) story(s served) string {
	const most = 3 * time.Second
	var lines []string
	tell := func(at moment, format string, args ...any) {
		if at > s.began-most && at <= s.at {
			lines = append(lines, fmt.Sprintf("%10.4fs ", at.Seconds())+fmt.Sprintf(format, args...))
		}
	}
	for what, list := range map[string][]event{"heard of": c.heard, "asked with": c.asked, "found": c.caught} {
		for _, e := range list {
			if e.key == s.key {
				tell(e.at, "%s version %d", what, e.version)
			}
		}
	}
	for _, o := range c.served {
		if o.key == s.key && !o.fromMemory {
			tell(o.at, "gave version %d to a look-up of %.4fs", o.version, o.began.Seconds())
		}
		if o.key == s.key && o.fromMemory && o.at-o.began > 10*time.Millisecond {
			tell(o.at, "gave version %d from memory to a look-up of %.4fs", o.version, o.began.Seconds())
		}
	}
	for what, list := range map[string][]moment{"connected": c.dialed, "cut": c.closed, "flooded": c.flooded} {
		for _, at := range list {
			tell(at, "%s", what)
		}
	}
	for _, n := range c.noticed {
		tell(n.at, "noticed: %s", [...]string{lost: "connection lost", back: "back", tooFast: "too fast"}[n.why])
	}
	slices.Sort(lines)
	return "before that:\n" + strings.Join(lines, "\n")
}

// missed returns the last notice before t, if it binds, and since when bumps may
// have been missed, if not earlier.
func (c *clientRecord) missed(t moment) (n notice, since moment, ok bool) {
	i, _ := slices.BinarySearchFunc(c.noticed, t, func(n notice, t moment) int { return cmp.Compare(n.at, t) })
	if i == 0 {
		return n, 0, false
	}
	n = c.noticed[i-1]
	switch n.why {
	case back: // what was asked before, was over the connection that was lost
		since, ok = last(c.closed, n.at)
	case tooFast:
		since, ok = last(c.flooded, n.at)
	}
	return n, since, ok
}

// cutOff reports whether the client may know that it is cut off between its
// notice n and t: then it gives what it has.
func (c *clientRecord) cutOff(n notice, t moment) bool {
	dialed, ok := last(c.dialed, n.at)
	if came, _ := slices.BinarySearch(c.dialed, t+justNow); !ok || came-1 != n.returns {
		return true // n is news of an earlier return
	}
	i, _ := slices.BinarySearch(c.closed, dialed)
	return i < len(c.closed) && c.closed[i] <= t+justNow
}

// last returns the last of the moments before t.
func last(list []moment, t moment) (moment, bool) {
	i, _ := slices.BinarySearch(list, t)
	if i == 0 {
		return 0, false
	}
	return list[i-1], true
}

func (w *workerRecord) check(sent peaks, report reporter) {
	heard := highest(w.heard)
	for _, a := range w.answered {
		if a.version < a.min || a.version <= a.rejected && a.rejected > 0 {
			report("floor", "%s answered with version %d of %s; min_version was %d, rejected_version %d", w.name, a.version, a.key, a.min, a.rejected)
		}
		if b := heard.before(a.key, a.began); b.version > a.version {
			report("worker bump", "%s heard at %s of version %d of %s, and answered with version %d what it was asked at %s", w.name, b.at, b.version, a.key, a.version, a.began)
		}
		cut, ok := last(w.resynced, a.began)
		if b := sent.before(a.key, cut); ok && b.version > a.version {
			report("worker cut", "%s noticed a cut at %s and answered with version %d of %s what it was asked at %s; the bump of version %d was sent at %s",
				w.name, cut, a.version, a.key, a.began, b.version, b.at)
		}
	}
}

// TestRulesCanFail holds small records against the rules, one for each way to
// break one, and the same with the one stamp that makes it right.
func TestRulesCanFail(t *testing.T) {
	key, err := account.ParseKey("steady.a")
	check(t, err)
	v := func(at moment, v account.Version) event { return event{at, key, v} }
	gave := func(began, at moment, version account.Version) served {
		return served{event: v(at, version), began: began, fromMemory: true}
	}
	client := func(f func(c *clientRecord)) *record {
		r := newRecord()
		f(r.addClient("c1"))
		return r
	}
	worker := func(f func(r *record, w *workerRecord)) *record {
		r := newRecord()
		f(r, r.addWorker("w1"))
		return r
	}
	cut := func(c *clientRecord) {
		c.dialed, c.closed = []moment{1, 30}, []moment{20}
		c.noticed = []notice{{at: 22, why: lost}, {at: 32, why: back}}
		c.asked = []event{v(5, 0)}
	}
	for name, tt := range map[string]struct {
		record *record
		want   string
	}{
		"a version falls":        {client(func(c *clientRecord) { c.served = []served{gave(1, 4, 2), gave(5, 6, 1)} }), "fall"},
		"at the same time":       {client(func(c *clientRecord) { c.served = []served{gave(1, 6, 2), gave(5, 7, 1)} }), ""},
		"a bump is ignored":      {client(func(c *clientRecord) { c.heard = []event{v(3, 2)}; c.served = []served{gave(5, 6, 1)} }), "bump"},
		"a bump comes meanwhile": {client(func(c *clientRecord) { c.heard = []event{v(5, 2)}; c.served = []served{gave(5, 6, 1)} }), ""},
		"a bump is given up":     {client(func(c *clientRecord) { c.refuted = []event{v(3, 2)} }), "bump"},
		"a cut is ignored":       {client(func(c *clientRecord) { cut(c); c.served = []served{gave(40, 41, 1)} }), "cut"},
		"asked about since": {client(func(c *clientRecord) {
			cut(c)
			c.asked = append(c.asked, v(31, 0))
			c.served = []served{gave(40, 41, 1)}
		}), ""},
		"found since":     {client(func(c *clientRecord) { cut(c); c.caught = []event{v(31, 1)}; c.served = []served{gave(40, 41, 1)} }), ""},
		"not noticed yet": {client(func(c *clientRecord) { cut(c); c.served = []served{gave(31, 33, 1)} }), ""},
		"not from memory": {client(func(c *clientRecord) { cut(c); c.served = []served{{event: v(41, 1), began: 40}} }), ""},
		"cut off again":   {client(func(c *clientRecord) { cut(c); c.closed = append(c.closed, 39); c.served = []served{gave(40, 41, 1)} }), ""},
		"a flood is ignored": {client(func(c *clientRecord) {
			cut(c)
			c.asked = append(c.asked, v(31, 0))
			c.flooded = []moment{34}
			c.noticed = append(c.noticed, notice{at: 35, why: tooFast})
			c.served = []served{gave(40, 41, 1)}
		}), "cut"},
		"min_version lags":          {client(func(c *clientRecord) { c.served = []served{gave(1, 4, 2)}; c.asked = []event{v(15, 1)} }), "min_version"},
		"a question from before":    {client(func(c *clientRecord) { c.served = []served{gave(1, 4, 2)}; c.asked = []event{v(14, 1)} }), ""},
		"held back while cut off":   {client(func(c *clientRecord) { cut(c); c.served = []served{gave(9, 10, 2)}; c.asked = []event{v(31, 1)} }), ""},
		"lags before it was cut":    {client(func(c *clientRecord) { cut(c); c.served = []served{gave(1, 4, 2)}; c.asked = []event{v(31, 1)} }), "min_version"},
		"two tokens of one version": {client(func(c *clientRecord) { c.served = []served{gave(1, 4, 2), {event: v(6, 2), began: 5, token: 7}} }), "token"},
		"a token has ended":         {client(func(c *clientRecord) { c.served = []served{{event: v(6, 2), began: 5, expires: 5}} }), "token"},
		"below min_version":         {worker(func(_ *record, w *workerRecord) { w.answered = []answered{{event: v(2, 1), began: 1, min: 2}} }), "floor"},
		"the rejected version":      {worker(func(_ *record, w *workerRecord) { w.answered = []answered{{event: v(2, 1), began: 1, rejected: 1}} }), "floor"},
		"a worker ignores a bump": {worker(func(_ *record, w *workerRecord) {
			w.heard = []event{v(1, 2)}
			w.answered = []answered{{event: v(3, 1), began: 2}}
		}), "worker bump"},
		"a worker ignores a cut": {worker(func(r *record, w *workerRecord) {
			r.sent = []event{v(1, 2)}
			w.resynced = []moment{2}
			w.answered = []answered{{event: v(4, 1), began: 3}}
		}), "worker cut"},
		"sent after the worker's": {worker(func(r *record, w *workerRecord) {
			r.sent = []event{v(2, 2)}
			w.resynced = []moment{2}
			w.answered = []answered{{event: v(4, 1), began: 3}}
		}), ""},
		"a client stays behind": {worker(func(r *record, _ *workerRecord) { r.late = []violation{{"newest", ""}} }), "newest"},
	} {
		t.Run(name, func(t *testing.T) {
			found := tt.record.judge(10)
			switch {
			case tt.want == "" && len(found) > 0:
				t.Errorf("found %s", found)
			case tt.want != "" && (len(found) != 1 || found[0].rule != tt.want):
				t.Errorf("found %s; want one of %q", found, tt.want)
			}
		})
	}
}
