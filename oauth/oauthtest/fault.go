package oauthtest

import (
	"encoding/json"
	"maps"
	"net/http"
	"strconv"
	"strings"
)

// Fault is what goes wrong with one token request. The zero value is no fault.
// Fields may be combined; those of the first group act before the refresh token
// is looked at, so that nothing is spent, those of the second after it was
// spent.
type Fault struct {
	Gate   <-chan struct{} // wait until it is closed, or the client is gone
	Before *Response       // answer this instead
	Cut    bool            // end the connection without an answer

	KeepRefreshToken bool                      // grant without rotating; no refresh token in the answer
	GateAfter        <-chan struct{}           // wait until it is closed, or the client is gone
	After            *Response                 // answer this instead
	CutAfter         bool                      // end the connection without an answer
	Edit             func(map[string]any)      // change the answer's fields
	Pad              int                       // so many bytes of a field that nobody needs come last
	Truncate         int                       // announce the whole answer, send this much of its body, end the connection
	Raw              func(http.ResponseWriter) // answer by hand
}

// Response is an answer by hand. The connection of one whose Body is empty is
// still answered properly.
type Response struct {
	Status int
	Header map[string]string
	Body   string
}

func (a Response) write(w http.ResponseWriter) {
	for name, value := range a.Header {
		w.Header().Set(name, value)
	}
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json")
		if strings.HasPrefix(a.Body, "<") {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
		}
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(a.Body)))
	w.WriteHeader(a.Status)
	_, _ = w.Write([]byte(a.Body)) // the peer may be gone
}

// Inject queues faults: each of the next token requests gets one.
func (s *Server) Inject(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, faults...)
}

// InjectFunc sets what chooses the fault of each request for which none is
// queued; nil: none. It is called with a lock held and must not call the
// Server.
func (s *Server) InjectFunc(choose func(*http.Request) Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.choose = choose
}

// Refuse answers without spending anything. headers are names and values in
// turn.
func Refuse(status int, body string, headers ...string) Fault {
	return Fault{Before: response(status, body, headers)}
}

// HangUp ends the connection without spending anything.
func HangUp() Fault { return Fault{Cut: true} }

// Redirect answers with a redirect without spending anything.
func Redirect(status int, location string) Fault {
	return Refuse(status, "", "Location", location)
}

// WebPage answers with a web page without spending anything, as a proxy or a
// captive portal does.
func WebPage(status int) Fault {
	return Refuse(status, "<!DOCTYPE html><html><body>Hello</body></html>")
}

// Lose spends the refresh token and ends the connection.
func Lose() Fault { return Fault{CutAfter: true} }

// LoseWith spends the refresh token and answers something else. headers are
// names and values in turn.
func LoseWith(status int, body string, headers ...string) Fault {
	return Fault{After: response(status, body, headers)}
}

// Truncate spends the refresh token and ends the connection after n bytes of
// the answer's body.
func Truncate(n int) Fault { return Fault{Truncate: n} }

// Hold keeps the request until gate is closed, then serves it.
func Hold(gate <-chan struct{}) Fault { return Fault{Gate: gate} }

// HoldAfter spends the refresh token and keeps the answer until gate is closed.
func HoldAfter(gate <-chan struct{}) Fault { return Fault{GateAfter: gate} }

// Without spends the refresh token and leaves fields out of the answer.
func Without(fields ...string) Fault {
	return Fault{Edit: func(answer map[string]any) {
		for _, f := range fields {
			delete(answer, f)
		}
	}}
}

// With spends the refresh token and sets a field of the answer.
func With(field string, value any) Fault {
	return Fault{Edit: func(answer map[string]any) { answer[field] = value }}
}

// KeepRefreshToken grants a new access token and leaves the refresh token as
// it is.
func KeepRefreshToken() Fault { return Fault{KeepRefreshToken: true} }

// Padded makes the answer's body larger by n bytes, behind all other fields.
func Padded(n int) Fault { return Fault{Pad: n} }

func response(status int, body string, headers []string) *Response {
	a := &Response{Status: status, Body: body, Header: map[string]string{}}
	for i := 0; i+1 < len(headers); i += 2 {
		a.Header[headers[i]] = headers[i+1]
	}
	return a
}

// before does the first group, and reports whether the request goes on.
func (f Fault) before(w http.ResponseWriter, r *http.Request) bool {
	wait(r, f.Gate)
	switch {
	case f.Before != nil:
		f.Before.write(w)
		return false
	case f.Cut:
		panic(http.ErrAbortHandler)
	}
	return true
}

// after does the second group and answers.
func (f Fault) after(w http.ResponseWriter, r *http.Request, answer map[string]any) {
	wait(r, f.GateAfter)
	switch {
	case f.After != nil:
		f.After.write(w)
		return
	case f.CutAfter:
		panic(http.ErrAbortHandler)
	case f.Raw != nil:
		f.Raw(w)
		return
	}
	answer = maps.Clone(answer)
	if f.Edit != nil {
		f.Edit(answer)
	}
	if f.Pad > 0 {
		answer["~padding"] = strings.Repeat("x", f.Pad) // sorts last
	}
	if f.Truncate > 0 {
		data, err := json.Marshal(answer)
		if err != nil {
			panic("oauthtest: the answer is not JSON: " + err.Error())
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		_, _ = w.Write(data[:min(f.Truncate, len(data))])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	writeJSON(w, http.StatusOK, answer)
}

func wait(r *http.Request, gate <-chan struct{}) {
	if gate == nil {
		return
	}
	select {
	case <-gate:
	case <-r.Context().Done():
	}
}
