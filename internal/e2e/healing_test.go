package e2e_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/client"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
)

// Fifty gateways and three workers: the API ends a token before its time, every
// gateway has its 401, and all of them cause one exchange. Half of them learn of
// it only after another was healed. No caller sees a 401, nor a body that is not
// its own.
func TestP1FiftyGatewaysOneExchange(t *testing.T) {
	const gateways, workers = 50, 3
	endpoint, err := oauthtest.New(oauthtest.Config{TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(endpoint)
	t.Cleanup(web.Close)
	f, flags := rollingFleet(t, web.URL)
	for i := range workers {
		startWorker(t, t.TempDir(), append(flags, "--worker-id", fmt.Sprint("w", i))...).logs(t, "worker answers requests")
	}
	key := newKey(t, "demo", "alice")
	access, refresh := endpoint.NewGrant(key.ID())
	// A login's token may be forced out at once, which one that an exchange brought
	// a moment ago may not.
	f.must(t, "accounts", "import", write(t, t.TempDir(), "login.json", fmt.Sprintf(
		`{"platform":"demo","id":"alice","type":"oauth","credentials":{"access_token":%q,"refresh_token":%q,"expires_at":%q}}`,
		access, refresh, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))))

	api := &endingAPI{endpoint: endpoint, crowd: gateways, complete: make(chan struct{}), healed: make(chan struct{})}
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	callers := make([]*http.Client, gateways)
	for i := range callers {
		base := &http.Transport{}
		t.Cleanup(base.CloseIdleConnections)
		callers[i] = &http.Client{Transport: &client.Transport{Client: f.gateway(t), Key: key, Base: base}, Timeout: patience}
	}
	everyone := func(round string) {
		t.Helper()
		var all sync.WaitGroup
		for i, caller := range callers {
			all.Go(func() {
				if err := post(caller, server.URL, fmt.Sprintf("%s of gateway %d", round, i)); err != nil {
					t.Errorf("%s: gateway %d: %v", round, i, err)
				}
			})
		}
		all.Wait()
	}
	everyone("first request")
	if s := endpoint.Stats(); s.Requests != 0 || api.refusals() != 0 {
		t.Fatalf("before anything is wrong: %+v, %d refusals", s, api.refusals())
	}
	endpoint.EndAccess(key.ID())
	everyone("refused request")
	everyone("next request")
	if s := endpoint.Stats(); s.Requests != 1 || s.Exchanges != 1 {
		t.Errorf("%d gateways with a 401 for one version: %+v, want one exchange", gateways, s)
	}
	if n := api.refusals(); n != gateways {
		t.Errorf("%d refusals, want one for each of %d gateways", n, gateways)
	}
	if doc := f.accounts(t, key)[0]; doc.Version != 2 || doc.Failures != 0 {
		t.Errorf("the account ends as %+v", doc)
	}
}

// post makes one request and expects its body back.
func post(caller *http.Client, url, body string) error {
	resp, err := caller.Post(url, "text/plain", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || string(got) != body {
		return fmt.Errorf("%s, %q", resp.Status, got)
	}
	return nil
}

// endingAPI takes the endpoint's living tokens and sends the body back. Its first
// refusals wait for each other; the second half of them waits further, until a
// request was served again.
type endingAPI struct {
	endpoint *oauthtest.Server
	crowd    int           // how many wait for each other
	complete chan struct{} // closed when they are there
	healed   chan struct{} // closed by the first request that is served after that

	mu      sync.Mutex // guards refused
	refused int
}

func (a *endingAPI) refusals() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refused
}

func (a *endingAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the caller left
	}
	if _, ok := a.endpoint.Introspect(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")); ok {
		a.serve(w, body)
		return
	}
	if err := a.wait(r); err != nil {
		http.Error(w, err.Error(), http.StatusTeapot)
		return
	}
	http.Error(w, "the token has ended", http.StatusUnauthorized)
}

func (a *endingAPI) serve(w http.ResponseWriter, body []byte) {
	a.mu.Lock()
	if a.refused == a.crowd {
		select {
		case <-a.healed:
		default:
			close(a.healed)
		}
	}
	a.mu.Unlock()
	_, _ = w.Write(body)
}

// wait keeps a refusal until its time has come.
func (a *endingAPI) wait(r *http.Request) error {
	a.mu.Lock()
	a.refused++
	n := a.refused
	if n == a.crowd {
		close(a.complete)
	}
	a.mu.Unlock()
	until := a.complete
	if n > a.crowd/2 {
		until = a.healed
	}
	select {
	case <-until:
		return nil
	case <-r.Context().Done():
		return r.Context().Err()
	case <-time.After(patience / 2):
		return errors.New("the others did not come")
	}
}
