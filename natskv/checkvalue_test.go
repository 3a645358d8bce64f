package natskv_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/natskv"
)

func TestCheckValueIsOneForAll(t *testing.T) {
	js := single(t)
	values, err := natskv.NewValues(t.Context(), natskv.Config{JetStream: js})
	must(t, err)
	if _, err := values.CheckValue(t.Context(), "keyset", nil); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("before any: %v, want ErrNotFound", err)
	}
	const callers = 8
	got := make([]string, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			again, err := natskv.NewValues(t.Context(), natskv.Config{JetStream: js})
			if err != nil {
				t.Error(err)
				return
			}
			v, err := again.CheckValue(t.Context(), "keyset", fmt.Appendf(nil, "value of %d", i))
			if err != nil {
				t.Error(err)
			}
			got[i] = string(v)
		})
	}
	wg.Wait()
	for _, v := range got {
		if v != got[0] || v == "" {
			t.Fatalf("callers got different values: %q", got)
		}
	}
	v, err := values.CheckValue(t.Context(), "keyset", nil)
	must(t, err)
	if string(v) != got[0] {
		t.Errorf("later: %q, want %q", v, got[0])
	}
	if v, err := values.CheckValue(t.Context(), "other", []byte("x")); err != nil || string(v) != "x" {
		t.Errorf("another name: %q, %v", v, err)
	}
}
