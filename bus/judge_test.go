package bus

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

func TestJudge(t *testing.T) {
	down := errors.New("database is down")
	tests := []struct {
		name    string
		err     error
		attempt uint64
		want    verdict
	}{
		{"done", nil, 1, verdict{ack, 0}},
		{"done at last", nil, 200, verdict{ack, 0}},
		{"first failure", down, 1, verdict{nak, time.Second}},
		{"second failure", down, 2, verdict{nak, 2 * time.Second}},
		{"ninth failure", down, 9, verdict{nak, 256 * time.Second}},
		{"capped", down, 10, verdict{nak, 5 * time.Minute}},
		{"long capped", down, 99, verdict{nak, 5 * time.Minute}},
		{"given up", down, 100, verdict{term, 0}},
		{"no attempt known", down, 0, verdict{nak, time.Second}},
		{"slow", context.DeadlineExceeded, 1, verdict{nak, time.Second}},
		{"we stop", fmt.Errorf("read: %w", context.Canceled), 100, verdict{nak, 0}},
		{"no event", fmt.Errorf("%w: no JSON", errUndecodable), 1, verdict{term, 0}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := judge(tt.err, tt.attempt); got != tt.want {
				t.Errorf("judge(%v, %d) = %v, want %v", tt.err, tt.attempt, got, tt.want)
			}
		})
	}
}

func TestReconnectDelay(t *testing.T) {
	for n := 1; n < 100; n++ {
		if d := reconnectDelay(n); d < 250*time.Millisecond || d > 5*time.Second {
			t.Errorf("pause %d is %s", n, d)
		}
	}
}
