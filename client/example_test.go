package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/oauth2"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/client"
)

// A client over a connection that the program has anyway. Without these options
// the server of a worker refuses the replies, and a silent cut goes unnoticed for
// minutes.
func ExampleNew() {
	seed, err := nats.NkeyOptionFromSeed("data/nats/client.nk")
	if err != nil {
		log.Fatal(err)
	}
	nc, err := nats.Connect("nats://127.0.0.1:4222", seed, nats.CustomInboxPrefix(client.InboxPrefix),
		nats.MaxReconnects(-1), nats.PingInterval(5*time.Second), nats.MaxPingsOutstanding(2))
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	c, err := client.New(client.Config{Conn: nc, MaxAccounts: 10_000, Logger: slog.Default()})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
}

// A reverse proxy for many accounts: the inner request names the account, and the
// transport sends its token, and heals 401s.
func ExampleTransport() {
	c, err := client.New(client.Config{URL: "nats://127.0.0.1:4222", NKey: "data/nats/client.nk"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "https", "api.example" },
		Transport: &client.Transport{
			Client:  c,
			KeyOf:   func(r *http.Request) (account.Key, error) { return account.ParseKey(r.Header.Get("X-Account")) },
			Headers: map[string]client.Header{"example": {Name: "X-Api-Token"}}, // elsewhere Authorization: Bearer
			Prepare: func(r *http.Request, t client.Token) {
				r.Header.Del("X-Account")
				r.Header.Set("ChatGPT-Account-ID", t.Extra.Text("chatgpt_account_id"))
			},
		},
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:8080", proxy))
}

// A long-lived connection is opened again when its account has a new token.
func ExampleClient_Watch() {
	var c *client.Client
	var key account.Key
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	for version, err := range c.Watch(ctx, key) {
		if err != nil {
			log.Printf("%s has no token: %v", key, err)
			continue
		}
		token, err := c.Token(ctx, key, client.WithMinVersion(version))
		if err != nil {
			continue // the next step says the same
		}
		fmt.Println("dial with", token)
	}
}

// Counts for Prometheus; other libraries are fed in the same way.
func ExampleClient_Stats() {
	var c *client.Client
	for name, count := range map[string]func(client.Stats) int64{
		"tokenbus_client_hits_total":     func(s client.Stats) int64 { return s.Hits },
		"tokenbus_client_asked_total":    func(s client.Stats) int64 { return s.Asked },
		"tokenbus_client_failed_total":   func(s client.Stats) int64 { return s.Failed },
		"tokenbus_client_requests_total": func(s client.Stats) int64 { return s.Requests },
		"tokenbus_client_missed_total":   func(s client.Stats) int64 { return s.Missed },
	} {
		prometheus.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name}, func() float64 { return float64(count(c.Stats())) }))
	}
}

// How long the fleet takes, by what it answers with. With OpenTelemetry it would be
// histogram.Record(ctx, a.Took.Seconds(), …) instead of Observe.
func ExampleHooks() {
	took := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "tokenbus_client_question_seconds"}, []string{"outcome"})
	prometheus.MustRegister(took)
	c, err := client.New(client.Config{
		URL: "nats://127.0.0.1:4222", NKey: "data/nats/client.nk",
		Hooks: client.Hooks{Asked: func(a client.Asked) {
			outcome := string(a.Source)
			if e, ok := errors.AsType[*client.Error](a.Err); ok {
				outcome = string(e.Code)
			}
			took.WithLabelValues(outcome).Observe(a.Took.Seconds())
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
}

// A gateway puts the account's token into the request that it passes on. When
// the API refuses the token, it says so and gets a newer one.
func ExampleClient_Token() {
	c, err := client.New(client.Config{URL: "nats://127.0.0.1:4222", NKey: "data/nats/client.nk"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	key, err := account.ParseKey("openai.alice")
	if err != nil {
		log.Fatal(err)
	}
	call := func(ctx context.Context, opts ...client.Option) (*http.Response, client.Token, error) {
		token, err := c.Token(ctx, key, opts...)
		if err != nil {
			return nil, token, err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://api.example/v1/models", nil)
		if err != nil {
			return nil, token, err
		}
		token.SetAuthHeader(req)
		req.Header.Set("ChatGPT-Account-ID", token.Extra.Text("chatgpt_account_id"))
		resp, err := http.DefaultClient.Do(req)
		return resp, token, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	resp, token, err := call(ctx)
	if err == nil && resp.StatusCode == http.StatusUnauthorized {
		_ = resp.Body.Close()
		resp, _, err = call(ctx, client.WithRejectedVersion(token.Version))
	}
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
}

// Errors tell what to do: try another account, come back later, or call
// somebody.
func ExampleError() {
	var c *client.Client
	var key account.Key
	_, err := c.Token(context.Background(), key)
	switch e, _ := errors.AsType[*client.Error](err); {
	case err == nil:
	case errors.Is(err, client.ErrReauthRequired):
		log.Printf("%s: somebody must log in again", key)
	case errors.Is(err, client.ErrCoolingDown), errors.Is(err, client.ErrUnavailable):
		log.Printf("%s: again in %s", key, e.RetryAfter)
	default:
		log.Print(err)
	}
}

// Whatever takes an oauth2.TokenSource can be used with tokenbus.
func ExampleClient_TokenSource() {
	c, err := client.New(client.Config{URL: "nats://127.0.0.1:4222", NKey: "data/nats/client.nk"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	key, err := account.ParseKey("gemini.alice")
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	source := c.TokenSource(ctx, key)
	httpClient := &http.Client{Transport: &oauth2.Transport{Source: source}}
	resp, err := httpClient.Get("https://api.example/v1/models")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
}
