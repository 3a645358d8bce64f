// Package oauthtest is an OAuth 2.0 token endpoint for tests and demos: a real
// [http.Handler] that rotates refresh tokens, detects their reuse, and can be
// told to fail in each way there is.
//
// It serves POST /token and GET /userinfo:
//
//	s, err := oauthtest.New(oauthtest.Config{TTL: time.Minute})
//	web := httptest.NewServer(s)
//	access, refresh := s.NewGrant("alice")
//	s.Inject(oauthtest.Lose()) // spends the next refresh token, and hangs up
package oauthtest

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// Config configures a [Server]. The zero value is a strict server: tokens of
// one hour, every refresh token good for one use, reuse ends the grant.
type Config struct {
	TTL time.Duration // of access tokens; 0 means 1 h

	// NoRotation leaves the refresh token as it is and sends none back.
	NoRotation bool
	// NoReuseDetection refuses a spent refresh token and leaves the grant.
	NoReuseDetection bool
	// ReuseGrace is how long a spent refresh token is taken again: the answer
	// then has the newest refresh token.
	ReuseGrace time.Duration
	// MinRefreshAge refuses refresh tokens younger than this, and tells it as
	// earliest_refresh_at. Being refused spends nothing.
	MinRefreshAge time.Duration

	// ClientID and ClientSecret, if not empty, are what a client must present.
	ClientID, ClientSecret string
	// Auth is the way it must present them: "none", "body" or "basic"; ""
	// takes any.
	Auth string
	// Encoding is what the body must be: "form" or "json"; "" takes either.
	Encoding string

	// OpenAIErrors gives errors as {"error":{"code":"refresh_token_reused"}}
	// with status 401 rather than as RFC 6749 says.
	OpenAIErrors bool
	// JWT makes access tokens unsigned JWTs with exp and sub.
	JWT bool
	// Deterministic numbers the tokens (access-1, refresh-1, …) instead of
	// drawing them at random.
	Deterministic bool
	// Extra fields go into every answer that grants.
	Extra map[string]any

	// OnRequest, if not nil, is called at the start of each token request,
	// before a token is looked at. It may block.
	OnRequest func(*http.Request)
	// Now is the clock; nil means [time.Now].
	Now func() time.Time
}

// Server is the endpoint. It is safe for concurrent use.
type Server struct {
	cfg Config
	mux *http.ServeMux

	mu      sync.Mutex // guards everything below
	n       int        // tokens made
	grants  map[string]*grant
	refresh map[string]*refreshToken
	access  map[string]*accessToken
	faults  []Fault
	choose  func(*http.Request) Fault
	stats   Stats
}

// Stats counts what has happened.
type Stats struct {
	Requests  int // token requests, whatever became of them
	Exchanges int // refresh tokens that were accepted
	Reused    int // spent refresh tokens that came again, the grace left out
	InGrace   int // those within the grace
	Revoked   int // grants that ended, by reuse or by Revoke
}

type grant struct {
	account string
	current string // refresh token
	access  string // newest access token
	revoked bool
}

type refreshToken struct {
	grant    *grant
	issuedAt time.Time
	spentAt  time.Time // zero: not spent
	sent     int
}

type accessToken struct {
	grant     *grant
	expiresAt time.Time
	ended     bool
}

// New returns a Server, or an error that names everything that is wrong with
// cfg.
func New(cfg Config) (*Server, error) {
	var errs []error
	if cfg.TTL < 0 || cfg.ReuseGrace < 0 || cfg.MinRefreshAge < 0 {
		errs = append(errs, errors.New("oauthtest: durations must not be negative"))
	}
	switch cfg.Auth {
	case "", "none", "body", "basic":
	default:
		errs = append(errs, errors.New("oauthtest: Auth must be none, body, basic or empty"))
	}
	switch cfg.Encoding {
	case "", "form", "json":
	default:
		errs = append(errs, errors.New("oauthtest: Encoding must be form, json or empty"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if cfg.TTL == 0 {
		cfg.TTL = time.Hour
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{
		cfg:     cfg,
		mux:     http.NewServeMux(),
		grants:  map[string]*grant{},
		refresh: map[string]*refreshToken{},
		access:  map[string]*accessToken{},
	}
	s.mux.HandleFunc("POST /token", s.serveToken)
	s.mux.HandleFunc("GET /userinfo", s.serveUserinfo)
	return s, nil
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Date", s.cfg.Now().UTC().Format(http.TimeFormat)) // the clock that its tokens live by
	s.mux.ServeHTTP(w, r)
}

// NewGrant logs the account in and returns its first tokens. A grant that the
// account had before ends.
func (s *Server) NewGrant(account string) (access, refresh string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.grants[account]; old != nil {
		old.revoked = true
	}
	g := &grant{account: account}
	s.grants[account] = g
	g.current = s.issueRefreshLocked(g)
	g.access = s.issueAccessLocked(g)
	return g.access, g.current
}

// Current returns the account's newest tokens, "" if it has no grant.
func (s *Server) Current(account string) (access, refresh string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.grants[account]; g != nil {
		return g.access, g.current
	}
	return "", ""
}

// Introspect returns whose access token it is, and whether it is good now.
func (s *Server) Introspect(access string) (account string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.access[access]
	if t == nil {
		return "", false
	}
	return t.grant.account, !t.ended && !t.grant.revoked && s.cfg.Now().Before(t.expiresAt)
}

// Valid reports whether the access token is good now.
func (s *Server) Valid(access string) bool {
	_, ok := s.Introspect(access)
	return ok
}

// Sent returns how often the refresh token came in, whatever became of it. A
// request that a fault refused before it was read counts too.
func (s *Server) Sent(refresh string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.refresh[refresh]; t != nil {
		return t.sent
	}
	return 0
}

// Stats returns what has happened so far.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// Exchanges returns how many refresh tokens were accepted.
func (s *Server) Exchanges() int { return s.Stats().Exchanges }

// Reused returns how many spent refresh tokens came again outside the grace.
func (s *Server) Reused() int { return s.Stats().Reused }

// Revoked reports whether the account's grant has ended.
func (s *Server) Revoked(account string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.grants[account]
	return g != nil && g.revoked
}

// Revoke ends the account's grant with all its tokens.
func (s *Server) Revoke(account string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.grants[account]; g != nil {
		s.revokeLocked(g)
	}
}

// EndAccess ends the account's access tokens before their time: /userinfo
// answers 401 to them. Its refresh token lives.
func (s *Server) EndAccess(account string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.access {
		if t.grant.account == account {
			t.ended = true
		}
	}
}

func (s *Server) revokeLocked(g *grant) {
	if !g.revoked {
		g.revoked = true
		s.stats.Revoked++
	}
}

func (s *Server) issueRefreshLocked(g *grant) string {
	token := s.tokenLocked("refresh")
	s.refresh[token] = &refreshToken{grant: g, issuedAt: s.cfg.Now()}
	return token
}

func (s *Server) issueAccessLocked(g *grant) string {
	expiresAt := s.cfg.Now().Add(s.cfg.TTL)
	token := s.tokenLocked("access")
	if s.cfg.JWT {
		token = jwt(map[string]any{"sub": g.account, "exp": expiresAt.Unix(), "jti": token})
	}
	s.access[token] = &accessToken{grant: g, expiresAt: expiresAt}
	return token
}

func (s *Server) tokenLocked(kind string) string {
	s.n++
	if s.cfg.Deterministic {
		return fmt.Sprintf("%s-%d", kind, s.n)
	}
	return kind + "-" + rand.Text()
}

// jwt returns an unsigned JWT in the form of a signed one.
func jwt(claims map[string]any) string {
	payload, err := json.Marshal(claims)
	if err != nil {
		panic("oauthtest: claims are not JSON: " + err.Error())
	}
	enc := base64.RawURLEncoding.EncodeToString
	return enc([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + enc(payload) + "." + enc([]byte("unsigned"))
}
