package explore

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
	{"a clock is the version", "", []edit{{"ledger/entry.go", "Entry{Rev: v.Rev,", "Entry{Rev: account.Rev(l.cfg.Clock.Now().UnixMilli()),"}}},
	{"a lease is all that guards, and anybody releases it", "", []edit{
		{"internal/memory/memory.go", "	if m.locker.m[m.key] == m {\n		delete(m.locker.m, m.key)\n	}", "	delete(m.locker.m, m.key)"},
		{"refresh/refresh.go", "	doc, err := f.ledger.Write(ctx, &f.doc, guard, account.Change{", "	guard = account.Guard{}\n	doc, err := f.ledger.Write(ctx, &f.doc, guard, account.Change{"},
		{"refresh/refresh.go", "	plan := rotation.Decide(", "	f.doc.Rotation = nil\n	plan := rotation.Decide("},
	}},
	{"a failed save is logged and forgotten", "expired", []edit{{"refresh/settle.go",
		"		if answered && !(disk && shared) {\n", "		if true {\n			r.forget(ctx, rec, false)\n			return nil\n		}\n		if answered && !(disk && shared) {\n"}}},
	{"who gives up cancels the refresh", "", []edit{{"lookup/lookup.go", "	if !d.crowds.leave(w) {\n		return\n	}\n", "	if !d.crowds.leave(w) {\n		return\n	}\n	d.cfg.Refresher.Abort()\n"}}},
	{"a commit rests on what was begun, whatever came since", "", []edit{{"refresh/settle.go", "		unchanged := ledger.GuardOf(&begun.Account)\n		unchanged.Credentials = begun.Account.Credentials\n", "		unchanged := account.Guard{}\n"}}},
	{"a crowd is served what a bump has overtaken", "", []edit{{"lookup/search.go", "		k, j := d.remembered(w.key, w.req, d.cfg.Clock.Now())\n", "		k, j := d.ledger.Known(w.key), judgement{}\n"}}},
	{"no record when the lease backend is down", "", []edit{
		{"refresh/refresh.go", "	f.lease = nil\n	f.log.Debug(", "	f.lease = nil\n	f.stats.undone.Store(1)\n	f.log.Debug("},
		{"refresh/refresh.go", "	started := f.clock.Elapsed()\n", "	started := f.clock.Elapsed()\n	if f.stats.undone.Load() == 1 {\n		guard = account.Guard{}\n	}\n"},
		{"refresh/refresh.go", "	plan := rotation.Decide(", "	if f.stats.undone.Load() == 1 {\n		f.doc.Rotation = nil\n	}\n	plan := rotation.Decide("},
	}},
	{"an error is judged by a substring", "", []edit{{"oauth/judge.go", "	f := d.facts(b, raw, v)\n", "	f := d.facts(b, raw, v)\n	if raw.Status >= 400 && bytesContain(raw.Body, \"invalid_grant\") {\n		return rotation.Verdict{Outcome: rotation.Rejected, Code: \"invalid_grant\"}\n	}\n"},
		{"oauth/judge.go", "// Judge implements", "func bytesContain(b []byte, s string) bool {\n	for i := range b {\n		if len(b)-i >= len(s) && string(b[i:i+len(s)]) == s {\n			return true\n		}\n	}\n	return false\n}\n\n// Judge implements"}}},
	{"a frozen worker sends past its deadline", "", []edit{{"refresh/heartbeat.go", " || h.r.clock.Elapsed() >= h.deadline {", " {"}, {"refresh/heartbeat.go", "	if h.lost ||", "	if false && h.lost ||"}}},
	{"a commit without compare-and-set", "", []edit{
		{"rotation/settle.go", "		Guard: account.Guard{Version: a.Version, Rev: a.Rev}, Credentials:", "		Guard: account.Guard{}, Credentials:"},
	}},
	{"a taken-over record is not confirmed before the first byte", "grace", []edit{{"refresh/heartbeat.go", "	if h.takeover {\n		h.beat()\n	}\n", ""}, {"refresh/heartbeat.go", " h.takeover && !h.confirmed ||", ""}}},
	{"a lifetime counts from when the answer was read", "twice", []edit{{"oauth/judge.go", "sent := cmp.Or(raw.SentAt, raw.ReceivedAt)", "sent := cmp.Or(raw.ReceivedAt, raw.SentAt)"}}},
	{"the spool comes after the judgement", "expired", []edit{{"refresh/exchange.go", "		if err := f.stash(place, &rec, raw); err != nil {", "		if err := error(nil); err != nil {"}}},
	{"a takeover waits for the silence alone", "expired", []edit{{"rotation/plan.go", "r.silence(a.Rotation)+r.Policy.Timeout-s.Still", "r.silence(a.Rotation)-s.Still"}}},
	{"a takeover doesn't look into the journal", "stubborn", []edit{{"refresh/refresh.go", "	if gone := f.doc.Rotation; gone != nil {\n		id", "	if gone := f.doc.Rotation; false {\n		id"}}},
	{"a stop drops what has just been answered", "expired", []edit{{"refresh/exchange.go", "	ctx = context.WithoutCancel(ctx)\n", ""}}},
	{"a delete forgets what was perhaps sent", "delete", []edit{{"accounts/verbs.go", "		if a.Rotation != nil { // perhaps sent", "		if false { // perhaps sent"}}},
	{"a restored store is not noticed", "backup", []edit{{"ledger/announce.go", "	return seen, seen.Version > d.Version\n", "	return seen, false\n"}}},
	{"a restored store counts on from where it was", "backup", []edit{{"refresh/settle.go", "	if e.Above {", "	if false {"}}},
	{"a hold outlives what it was about", "backup", []edit{{"refresh/flight.go", "s.hold.err != nil && s.hold.rev >= known {", "s.hold.err != nil && known >= 0 {"}}},
	{"an exchange that ends the old token is told to nobody", "ends", []edit{{"refresh/exchange.go", "	if !f.policy.ServeWhileRefreshing {", "	if false {"}}},
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
			started := time.Now()
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
				t.Logf("%s %s", time.Since(started).Round(time.Second), firstLine(string(out)))
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
