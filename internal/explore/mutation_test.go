package explore

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// edit replaces one piece of source text.
type edit struct{ file, old, new string }

// mutations re-introduce the holes of designs that lose accounts. Each is the
// real source with one piece replaced; the explorer must find each.
var mutations = []struct {
	name     string
	scenario string // where it is looked for; "": in all
	edits    []edit
}{
	{"the cache version is checked, then set", "twice", []edit{{"internal/explore/ports.go",
		"	put := func() (bool, error) { return p.s.cache.Put(ctx, k, e) }",
		"	old, _ := p.s.cache.Get(ctx, k)\n	put := func() (bool, error) {\n		if old.Rev < e.Rev {\n			p.s.cache.Force(k, e)\n		}\n		return true, nil\n	}"}}},
	{"a clock is the version", "", []edit{{"provider/view.go", "return Entry{Rev: v.rev,", "return Entry{Rev: account.Rev(p.clock.Now().UnixMilli()),"}}},
	{"a lease is all that guards, and anybody releases it", "", []edit{
		{"internal/memory/memory.go", "	if m.locker.m[m.key] == m {\n		delete(m.locker.m, m.key)\n	}", "	delete(m.locker.m, m.key)"},
		{"provider/rotation.go", "	doc, err := p.write(ctx, a, guard, account.Change{", "	doc, err := p.write(ctx, a, account.Guard{}, account.Change{"},
		{"provider/rotation.go", "	plan := Decide(", "	a.Rotation = nil\n	plan := Decide("},
	}},
	{"a failed save is logged and forgotten", "expired", []edit{{"provider/exchange.go",
		"		if answered && !(disk && shared) {\n", "		if true {\n			p.forget(ctx, rec, false)\n			return nil\n		}\n		if answered && !(disk && shared) {\n"}}},
	{"who gives up cancels the refresh", "", []edit{{"provider/flight.go", "	case <-ctx.Done():\n		return ctx.Err()", "	case <-ctx.Done():\n		p.abort()\n		return ctx.Err()"}}},
	{"no record when the lease backend is down", "", []edit{
		{"provider/rotation.go", "	return nil, errors.Is(err, ErrHeld)\n}", "	p.stats.undone.Store(1)\n	return nil, errors.Is(err, ErrHeld)\n}"},
		{"provider/rotation.go", "	started := p.clock.Elapsed()\n	doc, err := p.write(ctx, a, guard,", "	started := p.clock.Elapsed()\n	if p.stats.undone.Load() == 1 {\n		guard = account.Guard{}\n	}\n	doc, err := p.write(ctx, a, guard,"},
		{"provider/rotation.go", "	plan := Decide(", "	if p.stats.undone.Load() == 1 {\n		a.Rotation = nil\n	}\n	plan := Decide("},
	}},
	{"an error is judged by a substring", "", []edit{{"oauth/judge.go", "	f := d.facts(b, raw, v)\n", "	f := d.facts(b, raw, v)\n	if raw.Status >= 400 && bytesContain(raw.Body, \"invalid_grant\") {\n		return provider.Verdict{Outcome: provider.Rejected, Code: \"invalid_grant\"}\n	}\n"},
		{"oauth/judge.go", "// Judge implements", "func bytesContain(b []byte, s string) bool {\n	for i := range b {\n		if len(b)-i >= len(s) && string(b[i:i+len(s)]) == s {\n			return true\n		}\n	}\n	return false\n}\n\n// Judge implements"}}},
	{"a frozen worker sends past its deadline", "", []edit{{"provider/exchange.go", " || h.p.clock.Elapsed() >= h.deadline {", " {"}, {"provider/exchange.go", "	if h.lost ||", "	if false && h.lost ||"}}},
	{"a commit without compare-and-set", "", []edit{
		{"provider/settle.go", "	guard := account.Guard{Version: a.Version}\n	fields", "	guard := account.Guard{}\n	fields"},
	}},
	{"a taken-over record is not confirmed before the first byte", "grace", []edit{{"provider/exchange.go", "	if h.takeover {\n		h.beat()\n	}\n", ""}, {"provider/exchange.go", " h.takeover && !h.confirmed ||", ""}}},
	{"a lifetime counts from when the answer was read", "twice", []edit{{"oauth/judge.go", "cmp.Or(raw.SentAt, raw.ReceivedAt)", "cmp.Or(raw.ReceivedAt, raw.SentAt)"}}},
	{"the spool comes after the judgement", "expired", []edit{{"provider/exchange.go", "		if err := p.stash(ctx, &rec, raw); err != nil {", "		if err := error(nil); err != nil {"}}},
}

// mutate builds the explorer with each mutation, expects it to find a
// violation, and returns how often it did.
func mutate(t *testing.T) (found int) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutations {
		t.Run("mutation "+m.name, func(t *testing.T) {
			overlay := writeOverlay(t, root, m.edits)
			cmd := exec.CommandContext(t.Context(), "go", "test", "-overlay", overlay, "-vet=off", "-count=1", "-run", "^TestExplore$", ".")
			cmd.Env = append(os.Environ(), "EXPLORE_MUTATIONS=", "EXPLORE_SCHEDULES=60000", "EXPLORE_TIME=5m", "EXPLORE_REPLAY=", "EXPLORE_SCENARIO="+m.scenario)
			out, err := cmd.CombinedOutput()
			switch {
			case err == nil:
				t.Errorf("not found:\n%s", out)
			case !strings.Contains(string(out), "replay: EXPLORE_REPLAY="):
				t.Errorf("the mutation does not run:\n%s", out)
			default:
				found++
				t.Log(firstLine(string(out)))
			}
		})
	}
	return found
}

func firstLine(out string) string {
	for line := range strings.SplitSeq(out, "\n") {
		if _, what, ok := strings.Cut(line, "explore_test.go:"); ok {
			return what
		}
	}
	return ""
}

// writeOverlay writes the mutated files and the overlay that puts them in
// place.
func writeOverlay(t *testing.T, root string, edits []edit) string {
	t.Helper()
	dir := t.TempDir()
	replace := map[string]string{}
	sources := map[string]string{}
	for _, e := range edits {
		path := filepath.Join(root, e.file)
		if _, ok := sources[path]; !ok {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			sources[path] = string(data)
		}
		if strings.Count(sources[path], e.old) != 1 {
			t.Fatalf("%s: want this text once, it is there %d times:\n%s", e.file, strings.Count(sources[path], e.old), e.old)
		}
		sources[path] = strings.Replace(sources[path], e.old, e.new, 1)
		replace[path] = filepath.Join(dir, filepath.Base(filepath.Dir(path))+"_"+filepath.Base(path))
	}
	for path, text := range sources {
		if err := os.WriteFile(replace[path], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	data, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return overlay
}
