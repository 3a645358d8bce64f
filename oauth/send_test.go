package oauth_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/oauth"
	"github.com/tokenbus/tokenbus/refresh"
)

// The secrets of these tests. None may be in any error.
const (
	refreshSecret = "rt-secret-refresh"
	clientSecret  = "cs-secret+/ client"
	proxySecret   = "pw-secret-proxy"
	answerSecret  = "at-secret-answer"
)

func noSecrets(t *testing.T, err error) {
	t.Helper()
	for _, s := range []string{refreshSecret, clientSecret, url.QueryEscape(clientSecret), proxySecret, answerSecret} {
		if err != nil && contains(fmt.Sprintf("%v %+v %#v", err, err, err), s) {
			t.Errorf("the error holds %q: %v", s, err)
		}
	}
}

// define returns the definition of a platform at the URL.
func define(tokenURL string, more ...func(*oauth.Definition)) oauth.Definitions {
	d := oauth.Builtin()["xai"]
	d.TokenURL = tokenURL + "/token"
	d.ClientID = "client-1"
	d.Timeout = time.Minute
	for _, m := range more {
		m(&d)
	}
	return oauth.Definitions{"mine": d}
}

func request(more ...func(*account.Credentials)) refresh.SendRequest {
	c := account.Credentials{RefreshToken: account.NewSecret(refreshSecret), AccessToken: account.NewSecret("old")}
	for _, m := range more {
		m(&c)
	}
	return refresh.SendRequest{Platform: "mine", Credentials: c}
}

// sendError returns err as a SendError and checks that it is clean.
func sendError(t *testing.T, err error, sent bool) *refresh.SendError {
	t.Helper()
	noSecrets(t, err)
	e, ok := errors.AsType[*refresh.SendError](err)
	if !ok {
		t.Fatalf("got %v, want a SendError", err)
	}
	if e.Sent != sent {
		t.Fatalf("sent = %v, want %v: %v", e.Sent, sent, err)
	}
	return e
}

// seen is a request as it came to the endpoint.
type seen struct {
	proto, method, uri string
	header             http.Header
	body               string
}

// endpoint serves requests with handle and records them.
type endpoint struct {
	*httptest.Server
	mu          sync.Mutex
	requests    []seen
	connections atomic.Int32
}

func newEndpoint(t *testing.T, secure bool, handle http.HandlerFunc) *endpoint {
	t.Helper()
	e := &endpoint{}
	e.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		e.mu.Lock()
		e.requests = append(e.requests, seen{r.Proto, r.Method, r.RequestURI, r.Header.Clone(), string(body)})
		e.mu.Unlock()
		handle(w, r)
	}))
	e.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			e.connections.Add(1)
		}
	}
	if secure {
		e.EnableHTTP2 = true
		e.StartTLS()
	} else {
		e.Start()
	}
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) all() []seen {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]seen(nil), e.requests...)
}

// trust is the TLS configuration that trusts the endpoint.
func (e *endpoint) trust() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(e.Certificate())
	return &tls.Config{RootCAs: pool}
}

func ok(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"access_token":"a"}`) }

func TestSendRequestForms(t *testing.T) {
	e := newEndpoint(t, false, ok)
	secret := func(d *oauth.Definition) { d.ClientSecret = account.NewSecret(clientSecret) }
	auth := func(a oauth.Auth) func(*oauth.Definition) { return func(d *oauth.Definition) { d.Auth = a } }
	asJSON := func(d *oauth.Definition) { d.Encoding = oauth.EncodingJSON }
	params := func(d *oauth.Definition) {
		d.Params = map[string]string{"scope": "openid email", "resource": "https://api.example/v1"}
	}
	const grant = "grant_type=refresh_token&refresh_token=" + refreshSecret
	secretForm := url.QueryEscape(clientSecret)
	basic := func(id, secret string) string {
		r := http.Request{Header: http.Header{}}
		r.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
		return r.Header.Get("Authorization")
	}
	ownID := func(c *account.Credentials) { c.ClientID = "own-1" }
	ownSecret := func(c *account.Credentials) { c.ClientSecret = account.NewSecret("own-secret") }
	for _, tt := range []struct {
		name   string
		define []func(*oauth.Definition)
		cred   []func(*account.Credentials)
		body   string
		auth   string
	}{
		{"form none", nil, nil, "client_id=client-1&" + grant, ""},
		{"form none keeps its secret", []func(*oauth.Definition){secret}, nil, "client_id=client-1&" + grant, ""},
		{"form none keeps the account's secret", nil, []func(*account.Credentials){ownSecret}, "client_id=client-1&" + grant, ""},
		{"form params", []func(*oauth.Definition){params}, nil, "client_id=client-1&" + grant + "&resource=https%3A%2F%2Fapi.example%2Fv1&scope=openid+email", ""},
		{"form body", []func(*oauth.Definition){secret, auth(oauth.AuthBody)}, nil, "client_id=client-1&client_secret=" + secretForm + "&" + grant, ""},
		{"form basic", []func(*oauth.Definition){secret, auth(oauth.AuthBasic)}, nil, grant, basic("client-1", clientSecret)},
		{"json none", []func(*oauth.Definition){asJSON}, nil, `{"client_id":"client-1","grant_type":"refresh_token","refresh_token":"` + refreshSecret + `"}`, ""},
		{"json body", []func(*oauth.Definition){asJSON, secret, auth(oauth.AuthBody)}, nil, `{"client_id":"client-1","client_secret":"` + clientSecret + `","grant_type":"refresh_token","refresh_token":"` + refreshSecret + `"}`, ""},
		{"own client", nil, []func(*account.Credentials){ownID}, "client_id=own-1&" + grant, ""},
		{"own client and secret", []func(*oauth.Definition){secret, auth(oauth.AuthBody)}, []func(*account.Credentials){ownID, ownSecret}, "client_id=own-1&client_secret=own-secret&" + grant, ""},
		{"own client and secret, basic", []func(*oauth.Definition){secret, auth(oauth.AuthBasic)}, []func(*account.Credentials){ownID, ownSecret}, grant, basic("own-1", "own-secret")},
		{"own secret of the definition's client", []func(*oauth.Definition){secret, auth(oauth.AuthBody)}, []func(*account.Credentials){ownSecret}, "client_id=client-1&client_secret=own-secret&" + grant, ""},
		{"own client that is the definition's", []func(*oauth.Definition){secret, auth(oauth.AuthBody)}, []func(*account.Credentials){func(c *account.Credentials) { c.ClientID = "client-1" }}, "client_id=client-1&client_secret=" + secretForm + "&" + grant, ""},
		{"own public client", []func(*oauth.Definition){secret, auth(oauth.AuthBody)}, []func(*account.Credentials){ownID}, "client_id=own-1&" + grant, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newClient(t, oauth.Config{Definitions: define(e.URL, tt.define...)})
			if _, err := c.Send(t.Context(), request(tt.cred...)); err != nil {
				t.Fatal(err)
			}
			all := e.all()
			got := all[len(all)-1]
			if got.body != tt.body {
				t.Errorf("body\ngot  %s\nwant %s", got.body, tt.body)
			}
			if a := got.header.Get("Authorization"); a != tt.auth {
				t.Errorf("authorization %q, want %q", a, tt.auth)
			}
			wantType := "application/x-www-form-urlencoded"
			if strings.HasPrefix(tt.body, "{") {
				wantType = "application/json"
			}
			if got.method != "POST" || got.uri != "/token" || got.proto != "HTTP/1.1" ||
				got.header.Get("Content-Type") != wantType || got.header.Get("Accept") != "application/json" || got.header.Get("User-Agent") != "tokenbus" {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestSendHeaders(t *testing.T) {
	e := newEndpoint(t, false, ok)
	kimi := oauth.Builtin()["kimi"]
	kimi.TokenURL = e.URL + "/token?tenant=1"
	c := newClient(t, oauth.Config{Definitions: oauth.Definitions{"mine": kimi}, UserAgent: "ua/1"})
	req := request(func(c *account.Credentials) { c.Extra = account.Extra{"device_id": json.RawMessage(`"dev-1"`)} })
	if _, err := c.Send(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	got := e.all()[0]
	if h := got.header; h.Get("X-Msh-Device-Id") != "dev-1" || h.Get("X-Msh-Platform") != "tokenbus" || h.Get("User-Agent") != "ua/1" || got.uri != "/token?tenant=1" {
		t.Errorf("%+v", got)
	}
	anthropic := oauth.Builtin()["anthropic"]
	anthropic.TokenURL = e.URL + "/token"
	c = newClient(t, oauth.Config{Definitions: oauth.Definitions{"mine": anthropic}})
	if _, err := c.Send(t.Context(), request()); err != nil {
		t.Fatal(err)
	}
	if ua := e.all()[1].header["User-Agent"]; !reflect.DeepEqual(ua, []string{"axios/1.8.4"}) {
		t.Errorf("user agent %q", ua)
	}
}

// What can't be sent is not sent, and says whose fault it is.
func TestSendRefusesUnsent(t *testing.T) {
	e := newEndpoint(t, false, ok)
	needsSecret := func(a oauth.Auth) func(*oauth.Definition) {
		return func(d *oauth.Definition) { d.Auth, d.ClientSecretEnv = a, "NO_SUCH" }
	}
	for _, tt := range []struct {
		name          string
		define        []func(*oauth.Definition)
		req           refresh.SendRequest
		misconfigured bool
	}{
		{"secret missing", []func(*oauth.Definition){needsSecret(oauth.AuthBody)}, request(), true},
		{"secret missing, basic", []func(*oauth.Definition){needsSecret(oauth.AuthBasic)}, request(), true},
		{"no such platform", nil, refresh.SendRequest{Platform: "nobody", Credentials: request().Credentials}, true},
		{"no client id", []func(*oauth.Definition){func(d *oauth.Definition) { d.ClientID = "" }}, request(), false},
		{"own client without secret, basic", []func(*oauth.Definition){needsSecret(oauth.AuthBasic)}, request(func(c *account.Credentials) { c.ClientID = "own" }), false},
		{"no refresh token", nil, request(func(c *account.Credentials) { c.RefreshToken = account.Secret{} }), false},
		{"account's proxy is no URL", nil, request(func(c *account.Credentials) { c.ProxyURL = account.NewSecret("http://u:" + proxySecret + "@h:port") }), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newClient(t, oauth.Config{Definitions: define(e.URL, tt.define...)})
			tt.req.BeforeFirstByte = func() error { t.Error("asked to send"); return nil }
			_, err := c.Send(t.Context(), tt.req)
			sendError(t, err, false)
			if errors.Is(err, refresh.ErrMisconfigured) != tt.misconfigured {
				t.Errorf("misconfigured: want %v: %v", tt.misconfigured, err)
			}
		})
	}
	if n := e.connections.Load(); n != 0 {
		t.Errorf("%d connections", n)
	}
}

// One exchange is one connection and one request, whatever comes back.
func TestP1OneExchangeIsOneRequest(t *testing.T) {
	cut := func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }
	redirect := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/again", status) }
	}
	status := func(status int, headers ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for i := 0; i < len(headers); i += 2 {
				w.Header().Set(headers[i], headers[i+1])
			}
			w.WriteHeader(status)
		}
	}
	raw := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			_, _ = io.WriteString(conn, text)
			if tcp, ok := conn.(*net.TCPConn); ok && text == "" {
				_ = tcp.SetLinger(0) // a reset
			}
			_ = conn.Close()
		}
	}
	goAway := "\x00\x00\x12\x04\x00\x00\x00\x00\x00" + strings.Repeat("\x00", 18) + "\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	for _, tt := range []struct {
		name   string
		handle http.HandlerFunc
		status int // 0: a SendError that says sent
	}{
		{"200", ok, 200},
		{"301", redirect(301), 301}, {"302", redirect(302), 302}, {"303", redirect(303), 303},
		{"307", redirect(307), 307}, {"308", redirect(308), 308},
		{"401 with a challenge", status(401, "WWW-Authenticate", "Basic"), 401},
		{"407", status(407, "Proxy-Authenticate", "Basic"), 407},
		{"408", status(408), 408}, {"421", status(421), 421}, {"425", status(425), 425},
		{"503", status(503, "Retry-After", "0"), 503},
		{"early hints first", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(103); ok(w, r) }, 200},
		{"cut", cut, 0}, {"reset", raw(""), 0},
		{"no HTTP", raw(answerSecret + "\r\n\r\n"), 0},
		{"half a header", raw("HTTP/1.1 200 OK\r\nContent-Ty"), 0},
		{"GOAWAY", raw(goAway), 0},
	} {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/tls=%v", tt.name, secure), func(t *testing.T) {
				e := newEndpoint(t, secure, tt.handle)
				cfg := oauth.Config{Definitions: define(e.URL)}
				if secure {
					cfg.TLS = e.trust()
				}
				asked := 0
				req := request()
				req.BeforeFirstByte = func() error {
					asked++
					if n := len(e.all()); n != 0 {
						t.Errorf("asked after %d requests", n)
					}
					return nil
				}
				answer, err := newClient(t, cfg).Send(t.Context(), req)
				if tt.status == 0 {
					sendError(t, err, true)
				} else if err != nil || answer.Status != tt.status {
					t.Errorf("got %d, %v", answer.Status, err)
				}
				e.Close() // waits for requests that run
				if r, n := len(e.all()), e.connections.Load(); r != 1 || n != 1 || asked != 1 {
					t.Errorf("%d requests on %d connections, asked %d times", r, n, asked)
				}
			})
		}
	}
}

// Nothing leaves when BeforeFirstByte says no, and it is asked when the
// connection is ready.
func TestP1BeforeFirstByteRefuses(t *testing.T) {
	no := errors.New("the lease is gone")
	for _, secure := range []bool{false, true} {
		e := newEndpoint(t, secure, ok)
		cfg := oauth.Config{Definitions: define(e.URL)}
		if secure {
			cfg.TLS = e.trust()
		}
		req := request()
		req.BeforeFirstByte = func() error { return no }
		_, err := newClient(t, cfg).Send(t.Context(), req)
		if sendError(t, err, false); !errors.Is(err, no) {
			t.Errorf("tls=%v: got %v", secure, err)
		}
		e.Close()
		if n := len(e.all()); n != 0 {
			t.Errorf("tls=%v: %d requests", secure, n)
		}
	}
}

func TestSendReturnsTheAnswerUntouched(t *testing.T) {
	e := newEndpoint(t, false, func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Retry-After", "7")
		h.Set("Retry-After-Ms", "6500")
		h.Set("Location", "/x")
		h.Set("Set-Cookie", "a=b")
		w.WriteHeader(429)
		_, _ = io.WriteString(w, " {odd} ")
	})
	now := time.Date(2026, 1, 2, 3, 4, 5, 6_700_000, time.FixedZone("x", 3600))
	c := newClient(t, oauth.Config{Definitions: define(e.URL), Now: func() time.Time { return now }})
	got, err := c.Send(t.Context(), request())
	if err != nil {
		t.Fatal(err)
	}
	date := got.Header["Date"]
	want := refresh.RawAnswer{Status: 429, Body: []byte(" {odd} "), SentAt: now.UTC().Truncate(time.Millisecond), ReceivedAt: now.UTC().Truncate(time.Millisecond),
		Header: map[string]string{"Content-Type": "application/json", "Retry-After": "7", "Retry-After-Ms": "6500", "Location": "/x", "Date": date}}
	if date == "" || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v %q\nwant %+v", got.Header, got.Body, want.Header)
	}
}

// What arrives of a body is returned, also when it is cut or too long.
func TestP2SendKeepsAPartOfABody(t *testing.T) {
	const part = `{"refresh_token":"r2","access_token":"` + answerSecret
	for _, tt := range []struct {
		name   string
		handle http.HandlerFunc
		want   int // bytes
	}{
		{"cut", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, part)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, len(part)},
		{"chunks cut", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, part)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, len(part)},
		{"10 MB", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, part+strings.Repeat("x", 10<<20))
		}, 1 << 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := newEndpoint(t, false, tt.handle)
			c := newClient(t, oauth.Config{Definitions: define(e.URL)})
			got, err := c.Send(t.Context(), request())
			if err != nil || !got.Truncated || got.Status != 200 || len(got.Body) != tt.want || !strings.HasPrefix(string(got.Body), part) {
				t.Fatalf("%d, %d bytes, truncated=%v, %v", got.Status, len(got.Body), got.Truncated, err)
			}
			if v := c.Judge("mine", got); v.Credentials.RefreshToken.Reveal() != "r2" {
				t.Error("the refresh token is lost")
			}
		})
	}
}

func TestSendBoundsTheHeader(t *testing.T) {
	e := newEndpoint(t, false, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Long", strings.Repeat(answerSecret, 10_000))
		ok(w, r)
	})
	_, err := newClient(t, oauth.Config{Definitions: define(e.URL)}).Send(t.Context(), request())
	if sendError(t, err, true); !contains(err.Error(), "header is larger than 65536 bytes") {
		t.Error(err)
	}
}

func TestSendObeysItsContext(t *testing.T) {
	t.Run("before", func(t *testing.T) {
		e := newEndpoint(t, false, ok)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := newClient(t, oauth.Config{Definitions: define(e.URL)}).Send(ctx, request())
		if sendError(t, err, false); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Run("in mid-exchange", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		e := newEndpoint(t, false, func(_ http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() })
		_, err := newClient(t, oauth.Config{Definitions: define(e.URL)}).Send(ctx, request())
		if sendError(t, err, true); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Run("in mid-body", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		e := newEndpoint(t, false, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, `{"refresh_token":"r2",`)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		})
		calls := 0 // before the request leaves, and when the answer's header is there
		c := newClient(t, oauth.Config{Definitions: define(e.URL), Now: func() time.Time {
			if calls++; calls == 2 {
				cancel()
			}
			return time.Now()
		}})
		got, err := c.Send(ctx, request())
		if err != nil || !got.Truncated {
			t.Errorf("truncated=%v, %v", got.Truncated, err)
		}
	})
	t.Run("in a body that drips", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cfg := oauth.Config{Definitions: define("http://127.0.0.1:1"), Dial: func(context.Context, string, string) (net.Conn, error) {
			return &dripConn{first: "HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n"}, nil
		}}
		calls := 0 // before the request leaves, and when the answer's header is there
		cfg.Now = func() time.Time {
			if calls++; calls == 2 {
				cancel()
			}
			return time.Now()
		}
		got, err := newClient(t, cfg).Send(ctx, request())
		if err != nil || !got.Truncated || len(got.Body) == 0 {
			t.Errorf("%d bytes, truncated=%v, %v; want what came before the end", len(got.Body), got.Truncated, err)
		}
	})
	t.Run("timeout", func(t *testing.T) {
		e := newEndpoint(t, false, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		d := define(e.URL, func(d *oauth.Definition) { d.Timeout = time.Second })
		_, err := newClient(t, oauth.Config{Definitions: d}).Send(t.Context(), request())
		if sendError(t, err, true); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
	t.Run("dial timeout", func(t *testing.T) {
		ln := listen(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }) // never says a word of TLS
		d := define("https://" + ln)
		_, err := newClient(t, oauth.Config{Definitions: d, DialTimeout: 100 * time.Millisecond}).Send(t.Context(), request())
		if sendError(t, err, false); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

func TestSendChecksTheCertificate(t *testing.T) {
	e := newEndpoint(t, true, ok)
	e.Config.ErrorLog = log.New(io.Discard, "", 0) // it says that the handshake failed
	_, err := newClient(t, oauth.Config{Definitions: define(e.URL)}).Send(t.Context(), request())
	sendError(t, err, false)
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok {
		t.Error(err)
	}
	if n := len(e.all()); n != 0 {
		t.Errorf("%d requests", n)
	}
}

// A write that fails may have left all the same.
func TestSendCountsAFailedWriteAsSent(t *testing.T) {
	broken := errors.New("broken")
	c := newClient(t, oauth.Config{Definitions: define("http://127.0.0.1:1"), Dial: func(context.Context, string, string) (net.Conn, error) {
		return brokenConn{err: broken}, nil
	}})
	_, err := c.Send(t.Context(), request())
	if sendError(t, err, true); !errors.Is(err, broken) {
		t.Error(err)
	}
}

type brokenConn struct {
	net.Conn
	err error
}

func (c brokenConn) Write([]byte) (int, error)     { return 0, c.err }
func (c brokenConn) Read([]byte) (int, error)      { return 0, io.EOF }
func (c brokenConn) Close() error                  { return nil }
func (c brokenConn) SetDeadline(_ time.Time) error { return nil }

// dripConn gives one byte within every deadline, a millisecond from the last.
type dripConn struct {
	net.Conn
	first string // comes whole, before any deadline
	late  bool   // the next read has no time left
}

func (c *dripConn) Read(p []byte) (int, error) {
	if c.first != "" {
		n := copy(p, c.first)
		c.first, c.late = c.first[n:], true
		return n, nil
	}
	if c.late {
		return 0, os.ErrDeadlineExceeded
	}
	<-time.After(time.Millisecond)
	c.late = true
	return copy(p, " "), nil
}
func (c *dripConn) SetReadDeadline(time.Time) error { c.late = false; return nil }
func (c *dripConn) SetDeadline(time.Time) error     { return nil }
func (c *dripConn) Write(p []byte) (int, error)     { return len(p), nil }
func (c *dripConn) Close() error                    { return nil }

// listen serves connections on loopback, one goroutine each, until the test
// ends.
func listen(t *testing.T, serve func(net.Conn)) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

func splice(a net.Conn, fromA *bufio.Reader, b net.Conn) {
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(b, fromA); _ = b.Close() })
	wg.Go(func() { _, _ = io.Copy(a, b); _ = a.Close() })
	wg.Wait()
}
