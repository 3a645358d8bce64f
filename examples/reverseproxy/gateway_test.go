package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/tokenbus/tokenbus/client"
	"github.com/tokenbus/tokenbus/client/clienttest"
	"github.com/tokenbus/tokenbus/events"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scene is a gateway between a fleet with an account and an API that takes one
// token.
type scene struct {
	t     *testing.T
	fleet *clienttest.Fleet
	url   string // of the gateway
	web   *http.Client

	mu    sync.Mutex // guards what follows
	takes string     // the token that the API takes
	paths []string   // that it was asked for
	heads []http.Header
}

func start(t *testing.T, serve http.HandlerFunc) *scene {
	t.Helper()
	s := &scene{t: t, fleet: clienttest.Start(t), takes: "openai.alice-1", web: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	s.fleet.Login("openai.alice", time.Hour)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.paths, s.heads = append(s.paths, r.RequestURI), append(s.heads, r.Header)
		ok := r.Header.Get("Authorization") == "Bearer "+s.takes
		s.mu.Unlock()
		if !ok {
			_, _ = io.Copy(io.Discard, r.Body) // who still sends would not see the answer
			http.Error(w, "who?", http.StatusUnauthorized)
			return
		}
		serve(w, r)
	}))
	t.Cleanup(api.Close)
	upstream, err := url.Parse(api.URL + "/v1")
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	c := s.fleet.Client(func(cfg *client.Config) { cfg.Hooks = measured(registry) })
	gateway := httptest.NewServer(newGateway(c, upstream, registry, slog.New(slog.DiscardHandler)))
	t.Cleanup(gateway.Close)
	s.url = gateway.URL
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections)
	return s
}

func (s *scene) take(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takes = token
}

func (s *scene) do(ctx context.Context, method, path string, body io.Reader, headers ...string) *http.Response {
	s.t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, s.url+path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := s.web.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

func (s *scene) text(resp *http.Response) string {
	s.t.Helper()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

func echo(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }

func TestRequestGoesOnWithTheAccountsToken(t *testing.T) {
	s := start(t, echo)
	resp := s.do(t.Context(), http.MethodPost, "/openai.alice/models/a%2Fb?x=1", strings.NewReader("hello"), "Authorization", "Bearer caller", "Cookie", "a=b", "X-Api-Key", "k", "X-Other", "o")
	if text := s.text(resp); resp.StatusCode != 200 || text != "hello" {
		t.Errorf("%d %q", resp.StatusCode, text)
	}
	h := s.heads[0]
	if s.paths[0] != "/v1/models/a%2Fb?x=1" || h.Get("Authorization") != "Bearer openai.alice-1" || h.Get("Cookie")+h.Get("X-Api-Key") != "" || h.Get("X-Other") != "o" {
		t.Errorf("the API was asked for %s with %v", s.paths[0], h)
	}
}

func TestRefusedTokenIsHealed(t *testing.T) {
	s := start(t, echo)
	for i, size := range []int{0, 5, maxRepeated} {
		s.take("openai.alice-" + string(rune('2'+i)))
		body := bytes.Repeat([]byte("x"), size)
		resp := s.do(t.Context(), http.MethodPost, "/openai.alice/", bytes.NewReader(body))
		if text := s.text(resp); resp.StatusCode != 200 || text != string(body) {
			t.Errorf("a body of %d bytes: %d, %d bytes back", size, resp.StatusCode, len(text))
		}
	}
	if len(s.paths) != 6 {
		t.Errorf("the API was asked %d times, want each request twice", len(s.paths))
	}
	text := s.text(s.do(t.Context(), http.MethodGet, "/metrics", nil))
	for _, want := range []string{
		`gateway_requests_total{code="200"} 3`, `gateway_api_requests_total{code="401"} 3`, `gateway_api_requests_total{code="200"} 3`,
		"tokenbus_client_connected 1", "tokenbus_client_questions_failed_total 0", `tokenbus_client_question_seconds_count{outcome="refresh"} 3`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

// Bodies that can't be sent again pass through: the caller has the API's answer,
// and its next request a newer token.
func TestLargeBodyPassesThrough(t *testing.T) {
	for name, body := range map[string]func() io.Reader{
		"large":         func() io.Reader { return bytes.NewReader(make([]byte, maxRepeated+1)) },
		"size not told": func() io.Reader { return io.MultiReader(strings.NewReader("hello")) },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
			s.take("openai.alice-2")
			if resp := s.do(t.Context(), http.MethodPost, "/openai.alice/", body()); resp.StatusCode != 401 || s.text(resp) != "who?\n" {
				t.Errorf("%d", resp.StatusCode)
			}
			late, again := time.After(time.Minute), time.NewTicker(20*time.Millisecond)
			defer again.Stop()
			for s.do(t.Context(), http.MethodPost, "/openai.alice/", body()).StatusCode != 200 {
				select {
				case <-late:
					t.Fatal("the token is never replaced")
				case <-again.C:
				}
			}
		})
	}
}

// Both directions at once: each line is answered before the next is sent.
func TestBothDirectionsStream(t *testing.T) {
	s := start(t, func(w http.ResponseWriter, r *http.Request) {
		both := http.NewResponseController(w)
		if err := both.EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		_ = both.Flush()
		for in := bufio.NewScanner(r.Body); in.Scan(); {
			_, _ = io.WriteString(w, "data: "+in.Text()+"\n")
			_ = both.Flush()
		}
	})
	in, out := io.Pipe()
	resp := s.do(t.Context(), http.MethodPost, "/openai.alice/", in)
	defer out.Close()
	lines := bufio.NewScanner(resp.Body)
	for _, word := range []string{"one", "two"} {
		if _, err := io.WriteString(out, word+"\n"); err != nil {
			t.Fatal(err)
		}
		if !lines.Scan() || lines.Text() != "data: "+word {
			t.Fatalf("got %q, %v", lines.Text(), lines.Err())
		}
	}
}

// A connection that becomes something else, such as a WebSocket, passes through.
func TestUpgradePassesThrough(t *testing.T) {
	s := start(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, both, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = both.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_ = both.Flush()
		line, _ := both.ReadString('\n')
		_, _ = both.WriteString("echo " + line)
		_ = both.Flush()
	})
	resp := s.do(t.Context(), http.MethodGet, "/openai.alice/", nil, "Connection", "Upgrade", "Upgrade", "echo")
	both, ok := resp.Body.(io.ReadWriter)
	if resp.StatusCode != http.StatusSwitchingProtocols || !ok {
		t.Fatalf("%s, %T", resp.Status, resp.Body)
	}
	if _, err := io.WriteString(both, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(both).ReadString('\n'); line != "echo hello\n" {
		t.Errorf("%q, %v", line, err)
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	s := start(t, echo)
	carol := s.fleet.Login("openai.carol", time.Hour)
	for _, c := range []struct {
		path  string
		err   *events.Error
		code  int
		name  string
		after string
	}{
		{"/nobody/", nil, 404, "not_found", ""},
		{"/openai.bob/", nil, 404, "not_found", ""},
		{"/openai.carol/", &events.Error{Code: events.CodeDisabled, Message: "by an operator"}, 403, "disabled", ""},
		{"/openai.carol/", &events.Error{Code: events.CodeReauthRequired, Message: "log in again"}, 409, "reauth_required", ""},
		{"/openai.carol/", events.CoolingDown(1500*time.Millisecond, "too early"), 429, "cooling_down", "2"},
	} {
		s.fleet.Fail(carol, c.err)
		resp := s.do(t.Context(), http.MethodGet, c.path, nil)
		var body struct {
			Error struct{ Code, Message string }
		}
		err := json.NewDecoder(resp.Body).Decode(&body)
		if err != nil || resp.StatusCode != c.code || body.Error.Code != c.name || body.Error.Message == "" || resp.Header.Get("Retry-After") != c.after {
			t.Errorf("%s: %v, %d %+v, Retry-After %q", c.name, err, resp.StatusCode, body, resp.Header.Get("Retry-After"))
		}
	}
	if len(s.paths) > 0 {
		t.Errorf("the API was asked for %v", s.paths)
	}
}

func TestHealthz(t *testing.T) {
	s := start(t, echo)
	s.fleet.Cut()
	status := func() int { return s.do(t.Context(), http.MethodGet, "/healthz", nil).StatusCode }
	await := func(want int) {
		t.Helper()
		late, again := time.After(time.Minute), time.NewTicker(20*time.Millisecond)
		defer again.Stop()
		for status() != want {
			select {
			case <-late:
				t.Fatalf("never %d", want)
			case <-again.C:
			}
		}
	}
	await(503) // cut off, and no token yet
	s.fleet.Heal()
	await(200)
	if resp := s.do(t.Context(), http.MethodGet, "/openai.alice/", nil); resp.StatusCode != 200 {
		t.Fatal(resp.Status)
	}
	s.fleet.Cut()
	if resp := s.do(t.Context(), http.MethodGet, "/openai.alice/", nil); resp.StatusCode != 200 || status() != 200 {
		t.Errorf("cut off with a token in hand: %s, healthz %d", resp.Status, status())
	}
}
