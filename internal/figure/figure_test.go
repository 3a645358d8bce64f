package figure

import (
	"testing"
)

func TestQuantile(t *testing.T) {
	values := []float64{5, 1, 4, 2, 3}
	for q, want := range map[float64]float64{0: 1, 0.5: 3, 0.99: 5, 1: 5} {
		if got := Quantile(values, q); got != want {
			t.Errorf("Quantile(%v) = %v, want %v", q, got, want)
		}
	}
	if values[0] != 5 {
		t.Error("the caller's values are sorted")
	}
}

// Compare takes turns, and its ratio is ours over rival.
func TestCompare(t *testing.T) {
	t.Setenv("TOKENBUS_BENCH", "full")
	var order string
	r := testing.Benchmark(func(b *testing.B) {
		order = ""
		Compare(b,
			func() []float64 { order += "o"; return []float64{6, 1} },
			func() []float64 { order += "r"; return []float64{3, 2} },
			Column{Name: "p99", Unit: "ms", AtMost: 1.1}, Column{Unit: "req/s", AtLeast: 0.95})
	})
	if order != "roorroorroorro" {
		t.Errorf("order is %s", order)
	}
	for metric, want := range map[string]float64{
		"p99:ours/ms": 6, "p99:rival/ms": 3, "p99:ratio": 2, "p99:ratio-min": 2, "p99:ratio-max": 2, "p99:at-most": 1.1,
		"ours/req/s": 1, "rival/req/s": 2, "ratio": 0.5, "at-least": 0.95,
	} {
		if got := r.Extra[metric]; got != want {
			t.Errorf("%s = %v, want %v", metric, got, want)
		}
	}
}
