package explore

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestExplore plays schedules and checks the promises after each, then sees
// whether it finds each of the known mutations. By default it plays a few
// thousand and no mutation; EXPLORE_SCHEDULES and EXPLORE_TIME say how many and
// for how long at most, EXPLORE_MUTATIONS=1 asks for the mutations,
// EXPLORE_SCENARIO keeps to one scenario, EXPLORE_REPLAY plays one schedule
// and prints it. `make explore` does the whole.
func TestExplore(t *testing.T) {
	if line := os.Getenv("EXPLORE_REPLAY"); line != "" {
		replay(t, line)
		return
	}
	want, limit := 4000, 10*time.Minute
	if s := os.Getenv("EXPLORE_SCHEDULES"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("EXPLORE_SCHEDULES: %v", err)
		}
		want = n
	}
	if s := os.Getenv("EXPLORE_TIME"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatalf("EXPLORE_TIME: %v", err)
		}
		limit = d
	}
	played, bad := explore(t, want, limit)
	found := "not run"
	if os.Getenv("EXPLORE_MUTATIONS") != "" {
		found = fmt.Sprintf("%d/%d", mutate(t), len(mutations))
	}
	fmt.Printf("explore: schedules=%d violations=%d mutations=%s\n", played, bad, found)
}

func replay(t *testing.T, line string) {
	sc, deviate, err := parseLine(line)
	if err != nil {
		t.Fatal(err)
	}
	r := play(t, sc, deviate, nil, true)
	fmt.Println(r.trace)
	for _, b := range r.bad {
		t.Error(b)
	}
}

func parseLine(line string) (*scenario, map[int]int, error) {
	name, list, _ := strings.Cut(line, "/")
	for _, sc := range scenarios {
		if sc.name != name {
			continue
		}
		deviate := map[int]int{}
		for pair := range strings.SplitSeq(list, ",") {
			if pair == "" {
				continue
			}
			var step, pick int
			if _, err := fmt.Sscanf(pair, "%d:%d", &step, &pick); err != nil {
				return nil, nil, fmt.Errorf("schedule %q: %q is no step:choice", line, pair)
			}
			deviate[step] = pick
		}
		return sc, deviate, nil
	}
	return nil, nil, fmt.Errorf("schedule %q: no such scenario", line)
}

// job is one schedule to play.
type job struct {
	sc      *scenario
	deviate map[int]int
	seed    uint64 // not 0: random deviations
}

// chance is how often a random schedule deviates: one step in so many.
const chance = 12

func (j job) play(t *testing.T) result {
	var random func(int) int
	if j.seed != 0 {
		rnd := rand.New(rand.NewPCG(j.seed, 1))
		random = func(n int) int {
			if rnd.IntN(chance) > 0 {
				return 0
			}
			return rnd.IntN(n)
		}
	}
	return play(t, j.sc, j.deviate, random, false)
}

// search is one run of the explorer.
type search struct {
	scenarios []*scenario
	want      int
	until     time.Time

	mu     sync.Mutex // guards what follows
	given  int
	played int
	queue  []job
	ones   []one // schedules with one deviation that were played
	bad    []result
}

type one struct {
	sc         *scenario
	step, pick int
	width      []int
}

// explore plays up to want schedules: first every scenario with every single
// deviation, then, of the rest, half with two and half with random ones.
func explore(t *testing.T, want int, limit time.Duration) (played, bad int) {
	s := &search{want: want, until: time.Now().Add(limit), scenarios: scenarios}
	if name := os.Getenv("EXPLORE_SCENARIO"); name != "" {
		s.scenarios = slices.DeleteFunc(slices.Clone(scenarios), func(sc *scenario) bool { return sc.name != name })
	}
	for _, sc := range s.scenarios {
		s.queue = append(s.queue, job{sc: sc, deviate: map[int]int{}})
	}
	t.Run("schedules", func(t *testing.T) {
		for i := range runtime.GOMAXPROCS(0) {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()
				for {
					j, ok := s.next()
					if !ok {
						return
					}
					s.took(j, j.play(t))
				}
			})
		}
	})
	for _, r := range s.bad {
		if sc, deviate, err := parseLine(r.line); err == nil {
			r.trace = play(t, sc, deviate, nil, true).trace
		}
		t.Errorf("%s\nreplay: EXPLORE_REPLAY='%s' go test -run TestExplore ./internal/explore\n%s", strings.Join(r.bad, "\n"), r.line, r.trace)
	}
	return s.played, len(s.bad)
}

func (s *search) next() (job, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.given >= s.want || len(s.bad) > 0 || time.Now().After(s.until) {
		return job{}, false
	}
	s.given++
	if n := len(s.queue); n > 0 {
		j := s.queue[n-1]
		s.queue = s.queue[:n-1]
		return j, true
	}
	if s.given%2 == 0 && len(s.ones) > 0 {
		rnd := rand.New(rand.NewPCG(uint64(s.given), 2))
		o := s.ones[rnd.IntN(len(s.ones))]
		if later := len(o.width) - o.step - 1; later > 0 {
			step := o.step + 1 + rnd.IntN(later)
			if w := o.width[step]; w > 1 {
				return job{sc: o.sc, deviate: map[int]int{o.step: o.pick, step: 1 + rnd.IntN(w-1)}}, true
			}
		}
	}
	return job{sc: s.scenarios[s.given%len(s.scenarios)], seed: uint64(s.given)}, true
}

func (s *search) took(j job, r result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.played++
	switch {
	case len(r.bad) > 0:
		s.bad = append(s.bad, r)
	case j.seed == 0 && len(j.deviate) == 0:
		for step, width := range r.width {
			for pick := 1; pick < width; pick++ {
				s.queue = append(s.queue, job{sc: j.sc, deviate: map[int]int{step: pick}})
			}
		}
		if n := s.want / len(s.scenarios); len(r.width) > 0 && n < 500 { // a short run: a sample
			rand.New(rand.NewPCG(3, 3)).Shuffle(len(s.queue), func(i, j int) { s.queue[i], s.queue[j] = s.queue[j], s.queue[i] })
		}
	case j.seed == 0 && len(j.deviate) == 1:
		for step, pick := range j.deviate {
			s.ones = append(s.ones, one{j.sc, step, pick, r.width})
		}
	}
}
