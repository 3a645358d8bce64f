package oauthtest

import (
	"encoding/json"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxRequest bounds a token request's body, in bytes.
const maxRequest = 1 << 20

// refusal is an OAuth error.
type refusal struct {
	status int
	code   string
	text   string
}

func (s *Server) serveToken(w http.ResponseWriter, r *http.Request) {
	if s.cfg.OnRequest != nil {
		s.cfg.OnRequest(r)
	}
	fields, parsed := s.parse(r)
	fault := s.arrived(r, fields["refresh_token"])
	if !fault.before(w, r) {
		return
	}
	if parsed != nil {
		s.refuse(w, *parsed)
		return
	}
	answer, no := s.exchange(r, fields, fault)
	if no != nil {
		s.refuse(w, *no)
		return
	}
	fault.after(w, r, answer)
}

// arrived counts the request and returns the fault that is meant for it.
func (s *Server) arrived(r *http.Request, refresh string) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Requests++
	if t := s.refresh[refresh]; t != nil {
		t.sent++
	}
	if len(s.faults) > 0 {
		f := s.faults[0]
		s.faults = s.faults[1:]
		return f
	}
	if s.choose != nil {
		return s.choose(r)
	}
	return Fault{}
}

// parse reads the body in the encoding that is asked for.
func (s *Server) parse(r *http.Request) (map[string]string, *refusal) {
	bad := func(text string) *refusal { return &refusal{http.StatusBadRequest, "invalid_request", text} }
	data, err := io.ReadAll(io.LimitReader(r.Body, maxRequest))
	if err != nil {
		return nil, bad("the body can't be read")
	}
	mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	fields := map[string]string{}
	switch {
	case mediaType == "application/json" && s.cfg.Encoding != "form":
		if json.Unmarshal(data, &fields) != nil {
			return nil, bad("the body is no JSON object of strings")
		}
	case mediaType == "application/x-www-form-urlencoded" && s.cfg.Encoding != "json":
		values, err := url.ParseQuery(string(data))
		if err != nil {
			return nil, bad("the body is no form")
		}
		for name, v := range values {
			if len(v) > 1 {
				return fields, bad("a parameter comes twice")
			}
			fields[name] = v[0]
		}
	default:
		return nil, bad("unexpected content type")
	}
	return fields, nil
}

// checkClient checks the client's authentication.
func (s *Server) checkClient(r *http.Request, fields map[string]string) *refusal {
	bad := &refusal{http.StatusUnauthorized, "invalid_client", "client authentication failed"}
	user, password, basic := r.BasicAuth()
	_, inBody := fields["client_secret"]
	switch s.cfg.Auth {
	case "none":
		if basic || inBody {
			return bad
		}
	case "body":
		if basic || !inBody {
			return bad
		}
	case "basic":
		if !basic || inBody {
			return bad
		}
	}
	id, secret := fields["client_id"], fields["client_secret"]
	if basic {
		var err1, err2 error
		id, err1 = url.QueryUnescape(user)
		secret, err2 = url.QueryUnescape(password)
		if err1 != nil || err2 != nil {
			return bad
		}
	}
	if s.cfg.ClientID != "" && id != s.cfg.ClientID ||
		s.cfg.ClientSecret != "" && s.cfg.Auth != "none" && secret != s.cfg.ClientSecret {
		return bad
	}
	return nil
}

// exchange spends the refresh token and returns the answer's fields.
func (s *Server) exchange(r *http.Request, fields map[string]string, fault Fault) (map[string]any, *refusal) {
	if no := s.checkClient(r, fields); no != nil {
		return nil, no
	}
	if fields["grant_type"] != "refresh_token" {
		return nil, &refusal{http.StatusBadRequest, "unsupported_grant_type", "only refresh_token is served"}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	token := s.refresh[fields["refresh_token"]]
	if no := s.checkLocked(token, now); no != nil {
		return nil, no
	}
	g := token.grant
	answer := map[string]any{
		"token_type": "Bearer",
		"expires_in": int64(s.cfg.TTL / time.Second),
	}
	maps.Copy(answer, s.cfg.Extra)
	s.stats.Exchanges++
	switch {
	case !token.spentAt.IsZero(): // in the grace
		s.stats.InGrace++
		answer["refresh_token"] = g.current
	case !s.cfg.NoRotation && !fault.KeepRefreshToken:
		token.spentAt = now
		g.current = s.issueRefreshLocked(g)
		answer["refresh_token"] = g.current
		if s.cfg.MinRefreshAge > 0 {
			answer["earliest_refresh_at"] = now.Add(s.cfg.MinRefreshAge).UTC().Format(time.RFC3339Nano)
		}
	}
	g.access = s.issueAccessLocked(g)
	answer["access_token"] = g.access
	return answer, nil
}

// checkLocked says whether the refresh token is taken, and ends the grant if
// it comes a second time.
func (s *Server) checkLocked(token *refreshToken, now time.Time) *refusal {
	dead := func(text string) *refusal { return &refusal{http.StatusBadRequest, "invalid_grant", text} }
	switch {
	case token == nil:
		return dead("unknown refresh token")
	case !token.spentAt.IsZero() && (s.cfg.ReuseGrace == 0 || now.Sub(token.spentAt) > s.cfg.ReuseGrace):
		s.stats.Reused++
		if !s.cfg.NoReuseDetection {
			s.revokeLocked(token.grant)
		}
		return dead("refresh token already used")
	case token.grant.revoked:
		return dead("the grant was revoked")
	case token.spentAt.IsZero() && now.Sub(token.issuedAt) < s.cfg.MinRefreshAge:
		return &refusal{http.StatusBadRequest, "invalid_request", "too early"}
	}
	return nil
}

// refuse answers with an OAuth error.
func (s *Server) refuse(w http.ResponseWriter, no refusal) {
	var answer any = map[string]string{"error": no.code, "error_description": no.text}
	if s.cfg.OpenAIErrors && no.code == "invalid_grant" {
		code := "refresh_token_invalidated"
		if strings.Contains(no.text, "already used") {
			code = "refresh_token_reused"
		}
		no.status = http.StatusUnauthorized
		answer = map[string]any{"error": map[string]string{
			"message": no.text, "type": "invalid_request_error", "code": code}}
	}
	writeJSON(w, no.status, answer)
}

func writeJSON(w http.ResponseWriter, status int, answer any) {
	data, err := json.Marshal(answer)
	if err != nil {
		panic("oauthtest: the answer is not JSON: " + err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	_, _ = w.Write(data) // the peer may be gone
}

func (s *Server) serveUserinfo(w http.ResponseWriter, r *http.Request) {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	account, ok := s.Introspect(token)
	if !ok {
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		writeJSON(w, http.StatusUnauthorized, map[string]string{"error": "invalid_token"})
		return
	}
	writeJSON(w, http.StatusOK, map[string]string{"sub": account})
}
