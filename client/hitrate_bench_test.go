package client_test

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/client"
	"github.com/tokenbus/tokenbus/client/clienttest"
)

// What look-ups of accounts that rotate meanwhile take, and how many of them
// memory answers: a thousand accounts of which one after the other gets its next
// version, each once in an hour or in ten seconds, and a gateway that looks up
// any of them 10,000 times a second.
//
//	go test -run '^$' -bench HitRate -benchtime 200000x ./client
func BenchmarkHitRate(b *testing.B) {
	for _, every := range []time.Duration{time.Hour, 10 * time.Second} {
		b.Run("each-"+every.String(), func(b *testing.B) { hitRate(b, every) })
	}
}

func hitRate(b *testing.B, every time.Duration) {
	f := clienttest.Start(b)
	keys := benchKeys(b, func(key string) account.Key { return f.Login(key, 24*time.Hour) })
	// The clock of the product, not of the test.
	c := f.Client(func(cfg *client.Config) { cfg.Now = nil })
	for _, key := range keys {
		if _, err := c.Token(b.Context(), key); err != nil {
			b.Fatal(err)
		}
	}
	over := make(chan struct{})
	var rotating sync.WaitGroup
	rotating.Go(func() {
		next := time.NewTicker(every / benchAccounts)
		defer next.Stop()
		for i := 0; ; i++ {
			select {
			case <-next.C:
				f.Rotate(keys[i%len(keys)])
			case <-over:
				return
			}
		}
	})
	before := c.Stats()
	draw := rand.New(rand.NewPCG(1, 2))
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	var took []time.Duration
	for b.Loop() {
		if len(took)%10 == 0 {
			<-tick.C
		}
		began := time.Now()
		_, err := c.Token(b.Context(), keys[draw.IntN(len(keys))])
		took = append(took, time.Since(began))
		if err != nil {
			b.Fatal(err)
		}
	}
	close(over)
	rotating.Wait()
	after := c.Stats()
	slices.Sort(took)
	at := func(perMille int) float64 {
		return float64(took[min(len(took)-1, len(took)*perMille/1000)].Nanoseconds()) / 1000
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(100*float64(after.Hits-before.Hits)/float64(len(took)), "hit-%")
	b.ReportMetric(float64(int64(len(took))-(after.Hits-before.Hits)), "waited")
	b.ReportMetric(at(500), "p50-µs")
	b.ReportMetric(at(990), "p99-µs")
	b.ReportMetric(at(999), "p99.9-µs")
	b.ReportMetric(float64(after.Bumps-before.Bumps), "bumps")
	b.ReportMetric(float64(after.Requests-before.Requests)/b.Elapsed().Seconds(), "requests/s")
}
