package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
)

// front stands before a token endpoint as a slow network does: requests arrive
// at once, answers take their time. It keeps book of what was on its way.
type front struct {
	url    string
	target string
	http   *http.Client
	// patience is how long the sender of a refresh token is waited for before
	// another may send it.
	patience time.Duration
	victims  chan string // names of workers whose answer is being held, for whoever wants to kill one

	mu       sync.Mutex // guards the rest
	rng      *rand.Rand
	owners   map[string]account.Key // whose a refresh token is
	first    map[string]time.Time   // when a refresh token was sent first
	answers  []answer
	requests map[account.Key]int
	errs     []error
}

// answer is one that granted new tokens.
type answer struct {
	key    account.Key
	worker string
	at     time.Time // when it was written, or its reader was gone
	lost   bool      // its reader was gone before it was written
}

// maxDelay bounds how long an answer is on its way.
const maxDelay = 100 * time.Millisecond

// newFront starts a front of the endpoint. Workers tell who they are by their
// User-Agent.
func newFront(t *testing.T, target string, patience time.Duration, seed uint64) *front {
	t.Helper()
	f := &front{
		target: target, patience: patience, victims: make(chan string), rng: rand.New(rand.NewPCG(seed, 1)),
		http:   &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute},
		owners: map[string]account.Key{}, first: map[string]time.Time{}, requests: map[account.Key]int{},
	}
	web := httptest.NewServer(f)
	t.Cleanup(web.Close)
	f.url = web.URL + "/token"
	return f
}

// own tells whose a refresh token is.
func (f *front) own(refreshToken string, key account.Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.owners[refreshToken] = key
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status, body, key, err := f.forward(r)
	f.mu.Lock()
	if err != nil {
		f.errs = append(f.errs, err)
	}
	delay := time.Duration(f.rng.Int64N(int64(maxDelay)))
	f.mu.Unlock()
	if status == 0 {
		panic(http.ErrAbortHandler) // which closes the connection
	}
	granted := status == http.StatusOK
	wait := time.NewTimer(delay)
	defer wait.Stop()
	victims := f.victims
	if !granted {
		victims = nil
	}
	gone := false
	select {
	case victims <- r.UserAgent(): // it is about to be killed
		<-r.Context().Done()
		gone = true
	case <-r.Context().Done():
		gone = true
	case <-wait.C:
	}
	if granted {
		defer func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.answers = append(f.answers, answer{key, r.UserAgent(), time.Now(), gone})
		}()
	}
	if gone {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, err = w.Write(body)
	gone = err != nil || http.NewResponseController(w).Flush() != nil
}

// forward makes the request, whatever becomes of the one who made it.
func (f *front) forward(r *http.Request) (status int, answer []byte, key account.Key, err error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, nil, key, nil //nolint:nilerr // the worker died while it sent
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return 0, nil, key, err
	}
	if key, err = f.note(form.Get("refresh_token")); err != nil {
		return 0, nil, key, err
	}
	req, err := http.NewRequestWithContext(context.WithoutCancel(r.Context()), r.Method, f.target, bytes.NewReader(body))
	if err != nil {
		return 0, nil, key, err
	}
	req.Header.Set("Content-Type", r.Header.Get("Content-Type"))
	resp, err := f.http.Do(req)
	if err != nil {
		return 0, nil, key, err
	}
	defer resp.Body.Close()
	if answer, err = io.ReadAll(resp.Body); err != nil {
		return 0, nil, key, err
	}
	var tokens struct {
		RefreshToken string `json:"refresh_token"`
	}
	if resp.StatusCode == http.StatusOK {
		if err := json.Unmarshal(answer, &tokens); err != nil {
			return 0, nil, key, err
		}
		f.own(tokens.RefreshToken, key)
	}
	return resp.StatusCode, answer, key, nil
}

// note takes down that a refresh token was sent. A second time is wrong before
// the first can no longer be answered.
func (f *front) note(refreshToken string) (account.Key, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key, known := f.owners[refreshToken]
	if !known {
		return key, errors.New("a refresh token was sent that nobody was given")
	}
	f.requests[key]++
	first, again := f.first[refreshToken]
	if !again {
		f.first[refreshToken] = time.Now()
	} else if gap := time.Since(first); gap < f.patience {
		f.errs = append(f.errs, fmt.Errorf("the refresh token of %s was sent again after %s", key, gap))
	}
	return key, nil
}

// cutOff reports whether an answer to the account was on its way to a worker
// when that was killed, or had been so shortly before that it may not have
// been read.
func (f *front) cutOff(key account.Key, kills []kill) bool {
	const unread = 2 * time.Second
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.answers, func(a answer) bool {
		return a.key == key && (a.lost || slices.ContainsFunc(kills, func(k kill) bool {
			return k.worker == a.worker && k.at.After(a.at.Add(-maxDelay)) && k.at.Before(a.at.Add(unread))
		}))
	})
}

// sent returns how many requests there were for the account.
func (f *front) sent(key account.Key) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests[key]
}

func (f *front) problems() []error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.errs)
}
