package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func get(t *testing.T, handler http.Handler, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func TestReadyz(t *testing.T) {
	registry := prometheus.NewRegistry()
	scrub := func(s string) string { return strings.ReplaceAll(s, "hunter2", "[secret]") }
	h := newHealth(slog.New(slog.DiscardHandler), scrub, registry, "nats", "store")
	handler := newHandler(h, registry)
	for _, c := range []struct {
		name   string
		change func()
		code   int
		body   string
	}{
		{"at the start", func() {}, 503,
			`{"ready":false,"checks":[{"name":"nats","ready":false,"reason":"starting"},{"name":"store","ready":false,"reason":"starting"}]}`},
		{"one of two", func() { h.set("nats", nil); h.set("store", errors.New("dial h:1\nas u:hunter2: refused")) }, 503,
			`{"ready":false,"checks":[{"name":"nats","ready":true},{"name":"store","ready":false,"reason":"dial h:1 as u:[secret]: refused"}]}`},
		{"all", func() { h.set("store", nil) }, 200,
			`{"ready":true,"checks":[{"name":"nats","ready":true},{"name":"store","ready":true}]}`},
		{"lost again", func() { h.set("nats", errors.New("connection is lost")) }, 503,
			`{"ready":false,"checks":[{"name":"nats","ready":false,"reason":"connection is lost"},{"name":"store","ready":true}]}`},
	} {
		c.change()
		if code, body := get(t, handler, "/readyz"); code != c.code || strings.TrimSpace(body) != c.body {
			t.Errorf("%s: got %d %s\nwant %d %s", c.name, code, body, c.code, c.body)
		}
	}
	_, body := get(t, handler, "/metrics")
	for _, want := range []string{`tokenbus_dependency_up{dependency="nats"} 0`, `tokenbus_dependency_up{dependency="store"} 1`} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("/metrics has no line %s", want)
		}
	}
}

func TestHealthz(t *testing.T) {
	registry := prometheus.NewRegistry()
	handler := newHandler(newHealth(slog.New(slog.DiscardHandler), strings.Clone, registry, "nats"), registry)
	if code, body := get(t, handler, "/healthz"); code != 200 || body != "ok\n" {
		t.Errorf("/healthz = %d %q, want 200 ok whatever the dependencies do", code, body)
	}
	for _, path := range []string{"/", "/debug/pprof/"} {
		if code, _ := get(t, handler, path); code != 404 {
			t.Errorf("%s = %d, want 404", path, code)
		}
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/readyz", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST /readyz = %d, want 405", w.Code)
	}
}

func TestHTTPServes(t *testing.T) {
	noLeaks(t)
	l, err := listen("http-addr", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		serveHTTP(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") }), slog.New(slog.DiscardHandler))
	}()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	answer, err := client.Get("http://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	if err != nil || string(body) != "here" {
		t.Errorf("got %q, %v", body, err)
	}
	stop()
	<-ended
}

func TestHTTPAddressInUse(t *testing.T) {
	l, err := listen("http-addr", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = listen("http-addr", l.Addr().String())
	want := `--http-addr (TOKENBUS_HTTP_ADDR): "` + l.Addr().String() + `": bind: address already in use; free the port, or give another address or none`
	if _, ok := errors.AsType[*usageError](err); !ok || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	if l, err := listen("http-addr", none); l != nil || err != nil {
		t.Errorf("listen(none) = %v, %v; want neither", l, err)
	}
}
