// Package client gives gateways living access tokens of tokenbus accounts: from
// its own memory for the price of a map look-up, else from a worker over NATS.
//
// A [Client] belongs to one process and is shared by all its goroutines:
//
//	c, err := client.New(client.Config{URL: "nats://127.0.0.1:4222", NKey: "client.nk"})
//	…
//	key, err := account.ParseKey("openai.alice")
//	…
//	token, err := c.Token(ctx, key)
//	…
//	token.SetAuthHeader(req)
//
// or, for a whole http.Client, which also heals 401s:
//
//	api := &http.Client{Transport: &client.Transport{Client: c, Key: key}}
//
// Without a Transport, name the version that the API refused:
//
//	token, err = c.Token(ctx, key, client.WithRejectedVersion(token.Version))
//
// # What to expect
//
//   - A token lives at least MinTTL longer when it is handed out, or is the last
//     living one while no worker has a better. None is handed out that has ended.
//   - A version that is known to be replaced is not handed out, and versions of
//     an account never fall.
//   - An account in use is renewed beside the requests: they don't wait.
//   - With the workers or NATS away, living tokens are served until they end.
//   - A worker that doesn't answer costs a moment: another is asked.
//
// docs/coherence.md has the rules behind that.
//
// # Errors
//
// They are of type [*Error], which tells when to come back; errors.Is with
// [ErrReauthRequired], [ErrCoolingDown] and so on tells them apart. What else
// there is: [ErrClosed], and a cancelled context's own error.
package client
