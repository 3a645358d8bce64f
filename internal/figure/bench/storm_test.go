package bench

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/figure"
)

// slow holds each token request up.
func slow(d time.Duration) func(*http.Request) { return func(*http.Request) { <-time.After(d) } }

// BenchmarkStorm asks three workers for one expired account, all at once, and
// makes sure that there is one exchange and that everybody gets its token. The
// rivals are made of what was measured in the same round: for the first reply a
// bare exchange, a bare store write and 5 ms; for the last a bare exchange, a
// bare store write and twice the time of as many bare echoes at once.
func BenchmarkStorm(b *testing.B) {
	for _, exchange := range []time.Duration{0, 100 * time.Millisecond} {
		b.Run(fmt.Sprintf("exchange=%s", exchange), func(b *testing.B) { storm(b, exchange) })
	}
}

func storm(b *testing.B, exchange time.Duration) {
	const workers, connections = 3, 8
	n := figure.Size(200, 10_000)
	f := newFleet(b, fleetConfig{durable: true, exchange: exchange})
	var fleet []*worker
	for range workers {
		fleet = append(fleet, f.serves())
	}
	asks := newAskers(b, f.server, connections)
	round := 0
	f.logins(keys(b, 0, 1))
	body := f.reply(f.requests(keys(b, 0, 1))[0], nil)
	others := newAskers(b, echoes(b, workers, body), connections)
	bare := f.bareKV()
	figure.Compare(b,
		func() []float64 {
			round++
			key := keys(b, round, 1)[0]
			f.expired(fleet[0], key)
			before := f.endpoint.Stats()
			r := asks.ask(b, load{subjects: f.requests([]account.Key{key}), requests: n, inFlight: n, keep: true})
			after := f.endpoint.Stats()
			if after.Requests-before.Requests != 1 || after.Exchanges-before.Exchanges != 1 || after.Reused != 0 {
				b.Fatalf("the endpoint saw %+v, and before the storm %+v; want one exchange", after, before)
			}
			for _, data := range r.replies {
				reply, err := events.DecodeTokenReply(key, data)
				if err != nil || reply.Version != 2 || !f.endpoint.Valid(reply.AccessToken.Reveal()) {
					b.Fatalf("version %d, %v; want a living token of version 2", reply.Version, err)
				}
			}
			return []float64{ms(r.first), ms(r.all)}
		},
		func() []float64 {
			alone := f.bareExchange() + f.bareWrite(bare)
			r := others.ask(b, load{subjects: f.requests(keys(b, 0, 1)), requests: n, inFlight: n})
			return []float64{ms(alone + 5*time.Millisecond), ms(alone + 2*r.all)}
		},
		figure.Column{Name: "first", Unit: "ms", AtMost: 1}, figure.Column{Name: "last", Unit: "ms", AtMost: 1})
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// expired puts an account whose token has ended, and returns when all have been
// told.
func (f *fleet) expired(w *worker, key account.Key) {
	b := f.b
	b.Helper()
	access, refresh := f.endpoint.NewGrant(key.ID())
	check(b, w.put(key, access, refresh, time.Now().Add(-time.Minute)))
	w.announced()
}

// bareExchange is how long one takes, over a connection of its own as the
// worker's.
func (f *fleet) bareExchange() time.Duration {
	b := f.b
	b.Helper()
	_, refresh := f.endpoint.NewGrant("bare")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}, "client_id": {"c"}}
	began := time.Now()
	resp, err := client.Post(f.url, "application/x-www-form-urlencoded", strings.NewReader(form.Encode()))
	check(b, err)
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	check(b, err)
	took := time.Since(began)
	if resp.StatusCode != http.StatusOK {
		b.Fatalf("bare exchange: status %d", resp.StatusCode)
	}
	return took
}

// bareKV is a bucket beside the fleet's, and what to write there: as much as
// the document of an account.
type bareKV struct {
	jetstream.KeyValue
	document []byte
}

func (f *fleet) bareKV() bareKV {
	b := f.b
	b.Helper()
	js, err := jetstream.New(connect(b, f.server, bus.RoleWorker))
	check(b, err)
	kv, err := js.CreateKeyValue(b.Context(), jetstream.KeyValueConfig{Bucket: "BARE", History: 1})
	check(b, err)
	accounts, err := js.KeyValue(b.Context(), "TOKENBUS_ACCOUNTS")
	check(b, err)
	entry, err := accounts.Get(b.Context(), keys(b, 0, 1)[0].String())
	check(b, err)
	return bareKV{kv, entry.Value()}
}

// bareWrite is how long a write to the bucket takes: the median of several.
func (f *fleet) bareWrite(kv bareKV) time.Duration {
	f.b.Helper()
	var took []float64
	for range 9 {
		began := time.Now()
		_, err := kv.Put(f.b.Context(), "x", kv.document)
		check(f.b, err)
		took = append(took, float64(time.Since(began)))
	}
	return time.Duration(figure.Median(took))
}
