// Command reverseproxy is a gateway to an API for many OAuth accounts. Try it
// with the demo, each line in a terminal of its own:
//
//	go run ./cmd/worker demo --env-file demo.env
//	. ./demo.env && go run ./examples/reverseproxy --upstream $TOKENBUS_DEMO_API
//	curl http://127.0.0.1:8080/demo.alice/userinfo
//
// The first part of the path names the account, and the rest goes to the API
// with the account's token. So an SDK needs nothing but a base URL, such as
// http://127.0.0.1:8080/openai.alice/v1.
//
// It doesn't ask its callers who they are: whoever reaches it uses every
// account. Put your own authentication before [gateway.ServeHTTP].
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tokenbus/tokenbus/client"
)

// drainFor is how long requests that run may take when the gateway stops.
const drainFor = 30 * time.Second

func main() {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	listen := flag.String("listen", "127.0.0.1:8080", "where callers connect to")
	upstream := flag.String("upstream", "", "the API's URL; needed")
	natsURL := flag.String("nats-url", cmp.Or(os.Getenv("TOKENBUS_NATS_URL"), "nats://127.0.0.1:4222"), "the workers' NATS servers, comma-separated [$TOKENBUS_NATS_URL]")
	nkey := flag.String("nats-nkey", os.Getenv("TOKENBUS_NATS_NKEY"), "NKey seed file, such as a worker's client.nk [$TOKENBUS_NATS_NKEY]")
	flag.Parse()
	api, err := url.Parse(*upstream)
	if err != nil || api.Scheme != "http" && api.Scheme != "https" || api.Host == "" {
		fmt.Fprintln(os.Stderr, "reverseproxy: --upstream: want https://host or http://host, perhaps with a path")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := run(ctx, *listen, api, client.Config{URL: *natsURL, NKey: *nkey, Name: "reverseproxy", Logger: log}, log); err != nil {
		log.Error("gateway ends", "error", err)
		os.Exit(1)
	}
}

// run serves until ctx ends, and then to the end what has begun.
func run(ctx context.Context, listen string, api *url.URL, cfg client.Config, log *slog.Logger) error {
	registry := prometheus.NewRegistry()
	cfg.Hooks = measured(registry)
	c, err := client.New(cfg)
	if err != nil {
		return fmt.Errorf("start the tokenbus client: %w", err)
	}
	defer c.Close() // after the last request
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           newGateway(c, api, registry, log),
		ReadHeaderTimeout: 10 * time.Second, // no other: bodies and answers may stream for hours
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	log.Info("gateway serves", "url", "http://"+l.Addr().String(), "upstream", api.Redacted())
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	log.Info("gateway stops; requests that run are served to their end", "at_most", drainFor.String())
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainFor)
	defer cancel()
	if err := server.Shutdown(patience); err != nil {
		return errors.Join(errors.New("requests were cut off"), server.Close())
	}
	return nil
}
