package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/client"
)

// maxRepeated is the largest body that is kept in memory, so that the request
// can be repeated when the API refuses its token. A larger one, or one whose size
// isn't told, streams through: its 401 goes to the caller, and the fleet replaces
// the token meanwhile.
const maxRepeated = 1 << 20

// gateway sends each request to the API with an account's token.
type gateway struct {
	proxy *httputil.ReverseProxy
	log   *slog.Logger
}

// accountKey is the key of a request's account among its context's values.
type accountKey struct{}

// newGateway returns what the gateway serves: accounts, metrics and health.
func newGateway(c *client.Client, api *url.URL, registry *prometheus.Registry, log *slog.Logger) http.Handler {
	answered, asked := counters(c, registry)
	base := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // documented
	base.MaxIdleConnsPerHost = base.MaxIdleConns            // they all go to one host
	base.DisableCompression = true                          // it is between the caller and the API
	g := &gateway{log: log}
	g.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(api)
			for _, name := range []string{"Authorization", "Cookie", "X-Api-Key"} {
				r.Out.Header.Del(name) // who the caller is concerns us, not the API
			}
		},
		Transport: &client.Transport{
			Client: c,
			KeyOf:  func(r *http.Request) (account.Key, error) { return r.Context().Value(accountKey{}).(account.Key), nil }, //nolint:forcetypeassert // ServeHTTP set it
			Base:   promhttp.InstrumentRoundTripperCounter(asked, base),
		},
		ErrorHandler: g.fail,
		ErrorLog:     slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	mux := http.NewServeMux()
	mux.Handle("/{account}/{path...}", promhttp.InstrumentHandlerCounter(answered, g))
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		// Without the workers it goes on with the tokens that it has.
		if s := c.Stats(); !s.Connected && s.Accounts == 0 {
			http.Error(w, "no connection to NATS, and no token in memory", http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ok\n")
	})
	return mux
}

// ServeHTTP implements [http.Handler].
func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("account")
	key, err := account.ParseKey(name)
	if err != nil {
		refuse(w, http.StatusNotFound, "not_found", "the path begins with no account, such as /openai.alice/")
		return
	}
	r = r.WithContext(context.WithValue(r.Context(), accountKey{}, key))
	if err := repeatable(r); err != nil {
		refuse(w, http.StatusBadRequest, "bad_request", "the body can't be read")
		return
	}
	http.StripPrefix("/"+name, g.proxy).ServeHTTP(w, r)
}

// repeatable lets the transport have a small body again.
func repeatable(r *http.Request) error {
	if r.ContentLength <= 0 || r.ContentLength > maxRepeated {
		return nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	r.Body, err = r.GetBody()
	return err
}

// fail answers a request that brought nothing from the API.
func (g *gateway) fail(w http.ResponseWriter, r *http.Request, err error) {
	e, noToken := errors.AsType[*client.Error](err)
	switch {
	case noToken:
		if e.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds()))))
		}
		refuse(w, e.Code.HTTPStatus(), string(e.Code), e.Message)
	case r.Context().Err() != nil: // nobody is there to read it
		refuse(w, http.StatusBadGateway, "cancelled", "the caller left")
	default:
		g.log.Warn("API did not answer", "error", err)
		refuse(w, http.StatusBadGateway, "bad_gateway", "the API did not answer")
	}
}

// refuse answers in the form that many SDKs know.
func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]string{"code": code, "message": message}})
}
