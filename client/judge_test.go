package client

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tokenbus/tokenbus/account"
)

// The table of docs/coherence.md.
func TestJudge(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	const at = time.Hour
	base := situation{now: now, at: at, epoch: 3, up: true, maxAge: 30 * time.Second, minTTL: 30 * time.Second}
	living := func(left time.Duration, change ...func(*held)) *held {
		h := &held{
			token: Token{Version: 7, ExpiresAt: now.Add(left)}, ends: at + left, skew: 3 * time.Minute,
			checked: at - time.Second, epoch: 3, stamp: 3, beside: at + 10*time.Second,
		}
		for _, c := range change {
			c(h)
		}
		return h
	}
	down := func(s *situation) { s.up = false }
	announced := func(v account.Version) func(*situation) { return func(s *situation) { s.announced = v } }
	for _, tt := range []struct {
		name   string
		h      *held
		w      want
		change func(*situation)
		want   verdict
	}{
		{"nothing held", nil, want{}, nil, mustAsk},
		{"fresh", living(time.Hour), want{}, nil, serve},
		{"its end has come", living(0), want{}, nil, mustAsk},
		{"its last moment", living(lastMoment), want{}, down, mustAsk},
		{"its end by the wall clock alone", living(time.Hour, func(h *held) { h.token.ExpiresAt = now }), want{}, down, mustAsk},
		{"its end by the monotonic clock alone", living(time.Hour, func(h *held) { h.ends = at }), want{}, down, mustAsk},
		{"a newer version is announced", living(time.Hour), want{}, announced(8), mustAsk},
		{"and we are cut off", living(time.Hour), want{}, func(s *situation) { s.announced, s.up = 8, false }, mustAsk},
		{"its own version is announced", living(time.Hour), want{}, announced(7), serve},
		{"rejected", living(time.Hour), want{rejected: 7}, nil, mustAsk},
		{"an older one rejected", living(time.Hour), want{rejected: 6}, nil, serve},
		{"a newer one wanted", living(time.Hour), want{minVersion: 8}, nil, mustAsk},
		{"this one wanted", living(time.Hour), want{minVersion: 7}, nil, serve},
		{"longer life wanted", living(time.Minute), want{minTTL: 2 * time.Minute}, nil, mustAsk},
		{"shorter life wanted", living(10 * time.Second), want{minTTL: 5 * time.Second}, nil, serve},
		{"below the margin", living(29 * time.Second), want{}, nil, shouldAsk},
		{"below the margin, cut off", living(29 * time.Second), want{}, down, serve},
		{"old", living(time.Hour, func(h *held) { h.checked = at - 30*time.Second }), want{}, nil, shouldAsk},
		{"old, cut off", living(time.Hour, func(h *held) { h.checked = at - 30*time.Second }), want{}, down, serve},
		{"bumps were missed", living(time.Hour, func(h *held) { h.epoch = 2 }), want{}, nil, shouldAsk},
		{"bumps were missed, cut off", living(time.Hour, func(h *held) { h.epoch = 2 }), want{}, down, serve},
		{"unsure", living(time.Hour, func(h *held) { h.unsure = true }), want{}, nil, shouldAsk},
		{"old, spared", living(time.Hour, func(h *held) { h.checked, h.reprieve = 0, at+1 }), want{}, nil, serve},
		{"spared in an earlier epoch", living(time.Hour, func(h *held) { h.epoch, h.stamp, h.reprieve = 2, 2, at+1 }), want{}, nil, shouldAsk},
		{"announced, spared", living(time.Hour, func(h *held) { h.reprieve = at + 1 }), want{}, announced(8), mustAsk},
		{"a refresh ends it", living(time.Hour), want{}, func(s *situation) { s.busy = true }, mustAsk},
		{"a refresh ends it, cut off", living(time.Hour), want{}, func(s *situation) { s.busy, s.up = true, false }, serve},
		{"due", living(time.Hour, func(h *held) { h.beside = at }), want{}, nil, serveAndAsk},
		{"due, spared", living(time.Hour, func(h *held) { h.beside, h.checked, h.reprieve = at, 0, at+1 }), want{}, nil, serveAndAsk},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := base
			if tt.change != nil {
				tt.change(&s)
			}
			if got := judge(tt.h, tt.w, s); got != tt.want {
				t.Errorf("verdict %d, want %d", got, tt.want)
			}
		})
	}
}

// The fast path serves no longer than the judgement would.
func TestFastPathAgreesWithJudge(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	rapid.Check(t, func(t *rapid.T) {
		seconds := rapid.SampledFrom([]time.Duration{-20, -2, 0, 1, 4, 10, 15, 20, 29, 30, 31, 35, 45, 60, 100, 179, 300})
		span := func(name string) time.Duration { return seconds.Draw(t, name) * time.Second }
		s := situation{
			now: now, at: time.Hour, epoch: rapid.Int64Range(1, 2).Draw(t, "epoch"), up: rapid.Bool().Draw(t, "up"),
			maxAge: 30 * time.Second, minTTL: 30 * time.Second,
		}
		left := span("left")
		h := held{
			token: Token{Version: 1, ExpiresAt: now.Add(left + span("clocks"))}, ends: s.at + left, skew: 3 * time.Minute,
			checked: s.at - span("age").Abs(), epoch: rapid.Int64Range(1, 2).Draw(t, "as of"), stamp: rapid.Int64Range(1, 2).Draw(t, "stamp"),
			unsure: rapid.Bool().Draw(t, "unsure"), beside: s.at + span("beside"), reprieve: s.at + span("reprieve"),
		}
		next := h.ready(s)
		if next.stamp != s.epoch {
			t.Fatalf("stamp %d in epoch %d", next.stamp, s.epoch)
		}
		for range 50 {
			d := time.Duration(rapid.Int64Range(0, int64(40*time.Second)).Draw(t, "later"))
			later := s
			later.now, later.at = s.now.Add(d), s.at+d
			if later.at < next.fresh {
				if v := judge(next, want{}, later); v != serve {
					t.Fatalf("%s later the fast path serves and the judgement is %d", d, v)
				}
			}
		}
		if last := next.fresh - 1; last >= s.at {
			later := s
			later.now, later.at = s.now.Add(last-s.at), last
			if v := judge(next, want{}, later); v != serve {
				t.Fatalf("at its end the fast path serves and the judgement is %d", v)
			}
		}
		if fresh, v := next.fresh, judge(next, want{}, s); v == serve && fresh < s.at {
			t.Fatalf("served, and the fast path is closed: %d", fresh)
		}
	})
}
