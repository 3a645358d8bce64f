package client_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/client"
	"github.com/tokenbus/tokenbus/client/clienttest"
	"github.com/tokenbus/tokenbus/events"
)

// api is an API that takes one token of each account, and keeps what it was sent.
type api struct {
	url  string
	mu   sync.Mutex
	want string // the header that it takes; "" takes none
	seen []string
}

func startAPI(t *testing.T) *api {
	a := &api{}
	web := httptest.NewServer(a)
	t.Cleanup(web.Close)
	a.url = web.URL
	return a
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	h := r.Header.Get("Authorization") + r.Header.Get("X-Key")
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = append(a.seen, h+" "+string(body))
	if h != a.want {
		http.Error(w, "no", http.StatusUnauthorized)
	}
}

func (a *api) takes(header string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.want, a.seen = header, nil
}

func (a *api) got() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return strings.Join(a.seen, "; ")
}

func TestTransport(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	f.SetExtra(key, "account", "acc-1") // version 2
	api := startAPI(t)
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	tr := &client.Transport{Client: f.Client(), Key: key, Base: base, Prepare: func(r *http.Request, token client.Token) {
		r.Header.Set("Account", token.Extra.Text("account"))
	}}
	post := func(body io.Reader) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, api.url, body)
		check(t, err)
		resp, err := tr.RoundTrip(r)
		check(t, err)
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		check(t, err)
		if len(r.Header) > 0 {
			t.Errorf("the caller's request was changed: %v", r.Header)
		}
		return resp.StatusCode
	}
	api.takes("Bearer openai.alice-2")
	if code := post(strings.NewReader("x")); code != 200 || api.got() != "Bearer openai.alice-2 x" {
		t.Errorf("%d, %s", code, api.got())
	}
	// Refused: reported once, and repeated with the newer version.
	api.takes("Bearer openai.alice-3")
	if code := post(strings.NewReader("x")); code != 200 || api.got() != "Bearer openai.alice-2 x; Bearer openai.alice-3 x" {
		t.Errorf("%d, %s", code, api.got())
	}
	// A body that can't be had again: the answer stays, the next request heals.
	api.takes("Bearer openai.alice-4")
	if code := post(io.MultiReader(strings.NewReader("x"))); code != 401 {
		t.Errorf("%d, %s", code, api.got())
	}
	eventually(t, "reported", func() bool { return f.Token(key) == "openai.alice-4" })
	eventually(t, "healed", func() bool { return post(strings.NewReader("x")) == 200 })
	// No newer version to be had: the API's answer comes back whole.
	api.takes("none")
	f.FailRefresh(key, events.CoolingDown(time.Minute, "too early"))
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, api.url, nil)
	check(t, err)
	resp, err := tr.RoundTrip(r)
	check(t, err)
	body, err := io.ReadAll(resp.Body)
	check(t, errors.Join(err, resp.Body.Close()))
	if resp.StatusCode != 401 || string(body) != "no\n" {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
}

func TestTransportHeaders(t *testing.T) {
	f := clienttest.Start(t)
	f.Login("plain.a", time.Hour)
	f.Login("word.a", time.Hour)
	f.Login("other.a", time.Hour)
	api := startAPI(t)
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	tr := &client.Transport{
		Client: f.Client(), Base: base,
		KeyOf:   func(r *http.Request) (account.Key, error) { return account.ParseKey(r.URL.Query().Get("account")) },
		Headers: map[string]client.Header{"plain": {Name: "X-Key"}, "word": {Name: "X-Key", Scheme: "Token"}},
	}
	for name, want := range map[string]string{"plain.a": "plain.a-1", "word.a": "Token word.a-1", "other.a": "Bearer other.a-1"} {
		api.takes(want)
		resp, err := (&http.Client{Transport: tr}).Get(api.url + "?account=" + name)
		check(t, err)
		check(t, resp.Body.Close())
		if resp.StatusCode != 200 {
			t.Errorf("%s: sent %q", name, api.got())
		}
	}
	closed := &body{}
	for name, tr := range map[string]*client.Transport{"a bad key": tr, "nothing": {}, "no client": {Key: alice}, "no key": {Client: tr.Client}} {
		closed.closed = false
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, api.url, closed)
		check(t, err)
		if resp, err := tr.RoundTrip(r); err == nil {
			_ = resp.Body.Close()
			t.Errorf("%s: no error", name)
		}
		if !closed.closed {
			t.Errorf("%s: the body stays open", name)
		}
	}
}

type body struct{ closed bool }

func (b *body) Read([]byte) (int, error) { return 0, io.EOF }
func (b *body) Close() error             { b.closed = true; return nil }

// A redirect to another host takes no token there, nor does one from https to http.
func TestP8TransportDoesNotFollowWithTheToken(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	var mu sync.Mutex
	var seen []string
	other, plain := "", ""
	serve := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r.Header.Get("Authorization")+r.Header.Get("Prepared"))
		switch r.URL.Path {
		case "/near":
			http.Redirect(w, r, "/end", http.StatusFound)
		case "/far":
			http.Redirect(w, r, other+"/there", http.StatusFound)
		case "/there":
			http.Redirect(w, r, "/refuse", http.StatusFound)
		case "/refuse":
			http.Error(w, "no", http.StatusUnauthorized)
		case "/round":
			http.Redirect(w, r, other+"/back?to="+r.Host, http.StatusFound)
		case "/back":
			http.Redirect(w, r, "http://"+r.URL.Query().Get("to")+"/end", http.StatusFound)
		case "/plain":
			http.Redirect(w, r, plain+"/end", http.StatusFound)
		}
	})
	web, secure := httptest.NewServer(serve), httptest.NewTLSServer(serve)
	defer web.Close()
	defer secure.Close()
	_, port, _ := strings.Cut(strings.TrimPrefix(web.URL, "http://"), ":")
	other, plain = "http://localhost:"+port, "http://"+strings.TrimPrefix(secure.URL, "https://")
	c := f.Client()
	// What goes to the secure host in plain goes to the other server, which tells.
	base := secure.Client().Transport.(*http.Transport).Clone()
	defer base.CloseIdleConnections()
	base.Proxy = func(r *http.Request) (*url.URL, error) {
		if r.URL.Scheme == "http" && "http://"+r.URL.Host == plain {
			return url.Parse(web.URL)
		}
		return nil, nil
	}
	gateway := &http.Client{Transport: &client.Transport{Client: c, Key: key, Base: base, Prepare: func(r *http.Request, _ client.Token) { r.Header.Set("Prepared", "!") }}}
	const token = "Bearer openai.alice-1!"
	for _, tt := range []struct {
		url  string
		want []string // headers
	}{
		{web.URL + "/near", []string{token, token}},
		{web.URL + "/far", []string{token, "", ""}},
		{web.URL + "/round", []string{token, "", ""}},
		{secure.URL + "/near", []string{token, token}},
		{secure.URL + "/plain", []string{token, ""}},
	} {
		resp, err := gateway.Get(tt.url)
		check(t, err)
		check(t, resp.Body.Close())
		mu.Lock()
		if !slices.Equal(seen, tt.want) {
			t.Errorf("%s: sent %q; want %q", tt.url, seen, tt.want)
		}
		seen = nil
		mu.Unlock()
	}
	// What another host refuses says nothing of the token.
	if got := f.Token(key); got != "openai.alice-1" {
		t.Errorf("the account is at %q", got)
	}
}
