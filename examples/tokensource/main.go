// Command tokensource gives an SDK the tokens of an account, in the two ways
// that SDKs know. Try it with the demo, each line in a terminal of its own:
//
//	go run ./cmd/worker demo --env-file demo.env
//	. ./demo.env && go run ./examples/tokensource --account demo.alice --api $TOKENBUS_DEMO_API/userinfo
package main

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"golang.org/x/oauth2"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/client"
)

func main() {
	name := flag.String("account", "", "whose tokens; needed")
	api := flag.String("api", "", "what to GET with them; needed")
	natsURL := flag.String("nats-url", cmp.Or(os.Getenv("TOKENBUS_NATS_URL"), "nats://127.0.0.1:4222"), "the workers' NATS servers, comma-separated [$TOKENBUS_NATS_URL]")
	nkey := flag.String("nats-nkey", os.Getenv("TOKENBUS_NATS_NKEY"), "NKey seed file, such as a worker's client.nk [$TOKENBUS_NATS_NKEY]")
	flag.Parse()
	if err := run(context.Background(), *name, *api, client.Config{URL: *natsURL, NKey: *nkey, Name: "tokensource"}); err != nil {
		fmt.Fprintln(os.Stderr, "tokensource:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, name, api string, cfg client.Config) error {
	key, err := account.ParseKey(name)
	if err != nil {
		return fmt.Errorf("--account: %w", err)
	}
	c, err := client.New(cfg)
	if err != nil {
		return err
	}
	defer c.Close()

	// For an SDK that takes a TokenSource, such as Google's with
	// option.WithTokenSource. oauth2.NewClient would keep a token until it ends,
	// though it was replaced, so an SDK that takes an http.Client gets this one. A
	// source never hears what the API said of its token: a 401 is the caller's.
	source := c.TokenSource(ctx, key)
	if err := call("oauth2.TokenSource", &http.Client{Transport: &oauth2.Transport{Source: source}, Timeout: time.Minute}, api); err != nil {
		return err
	}

	// For an SDK that takes an http.Client, such as OpenAI's with
	// option.WithHTTPClient. A 401 is healed: the request is repeated with a newer
	// token, unless the one that was refused came moments ago. Whatever key the SDK insists on, the account's token replaces it.
	return call("client.Transport", &http.Client{Transport: &client.Transport{Client: c, Key: key}, Timeout: time.Minute}, api)
}

// call stands for the SDK.
func call(way string, web *http.Client, api string) error {
	resp, err := web.Get(api)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	const most = 64 << 10
	body, err := io.ReadAll(io.LimitReader(resp.Body, most))
	if err != nil {
		return err
	}
	fmt.Printf("%s: %s %s\n", way, resp.Status, bytes.TrimSpace(body))
	return nil
}
