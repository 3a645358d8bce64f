package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"time"

	"golang.org/x/oauth2"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/client"
)

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
