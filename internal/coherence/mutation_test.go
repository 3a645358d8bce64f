package coherence_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// mutations break the rules, one by one: each is the real source with one piece
// replaced. The scenario of that name must find each, by the rule named.
var mutations = []struct {
	name           string
	scenario, rule string
	file, old, new string
}{
	{"a bump is not taken in", "a bump is heard", "bump",
		"client/entry.go", "	if b.Rev <= e.heard {\n", "	if true {\n"},
	{"a bump is no floor for the answer that is under way", "a reply is older than a bump", "bump",
		"client/entry.go", "		e.announced = b.Version\n", ""},
	{"an older answer replaces a newer", "a reply is older than one before it", "fall",
		"client/entry.go", "	case reply.Version < e.seen, ", "	case "},
	{"min_version is not sent", "a reply follows what was given", "min_version",
		"client/entry.go", "MinVersion: max(w.minVersion, e.seen)", "MinVersion: w.minVersion"},
	{"entries outlive a cut", "a client is cut off", "cut",
		"client/client.go", "	c.epoch.Add(1)\n	c.counts.cuts.Add(1)\n", "	c.counts.cuts.Add(1)\n"},
	{"dropped bumps go unnoticed", "a client is too slow", "newest",
		"client/ears.go", "sub.StatusChanged(nats.SubscriptionSlowConsumer, nats.SubscriptionActive, nats.SubscriptionClosed)", "sub.StatusChanged(nats.SubscriptionClosed)"},
	{"a worker serves below a bump", "a worker hears a bump", "worker bump",
		"ledger/l1.go", "k.View.Rev >= k.floor }", "k.View.Rev >= 0 }"},
	{"a worker's entries outlive a cut", "a worker is cut off", "worker cut",
		"ledger/l1.go", "l.l1.epoch.Add(1)", "l.l1.epoch.Add(0)"},
	{"a worker overlooks min_version", "a worker is behind what it is asked for", "floor",
		"lookup/judge.go", "	case asked > v.Version:\n", "	case false:\n"},
}

// TestMutations builds the scenarios with each mutation. COHERENCE_MUTATIONS=1
// asks for it.
func TestMutations(t *testing.T) {
	if os.Getenv("COHERENCE_MUTATIONS") != "1" {
		t.Skip("COHERENCE_MUTATIONS=1 runs it")
	}
	root, err := filepath.Abs("../..")
	check(t, err)
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			began := time.Now()
			pattern := "^TestP4Scenario$/^" + strings.ReplaceAll(m.scenario, " ", "_") + "$"
			cmd := exec.CommandContext(t.Context(), "go", "test", "-overlay", overlay(t, root, m.file, m.old, m.new), "-vet=off", "-count=1", "-run", pattern, ".")
			cmd.Env = append(os.Environ(), "COHERENCE_MUTATIONS=")
			out, err := cmd.CombinedOutput()
			switch {
			case err == nil:
				t.Errorf("not found:\n%s", out)
			case !strings.Contains(string(out), "violation of "+m.rule+":"):
				t.Errorf("rule %q does not find it:\n%s", m.rule, out)
			default:
				t.Logf("found by rule %q in %s", m.rule, time.Since(began).Round(time.Second))
			}
		})
	}
}

// overlay writes the mutated file and returns the overlay that puts it in place.
func overlay(t *testing.T, root, file, before, after string) string {
	t.Helper()
	path := filepath.Join(root, filepath.FromSlash(file))
	source, err := os.ReadFile(path)
	check(t, err)
	if n := strings.Count(string(source), before); n != 1 {
		t.Fatalf("%s: want this text once, it is there %d times:\n%s", file, n, before)
	}
	dir := t.TempDir()
	mutated, list := filepath.Join(dir, filepath.Base(file)), filepath.Join(dir, "overlay.json")
	check(t, os.WriteFile(mutated, []byte(strings.Replace(string(source), before, after, 1)), 0o600))
	data, err := json.Marshal(map[string]any{"Replace": map[string]string{path: mutated}})
	check(t, err)
	check(t, os.WriteFile(list, data, 0o600))
	return list
}
