// Package client asks tokenbus workers for access tokens over NATS.
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
// When the API answers 401, ask again and name the version it refused:
//
//	token, err = c.Token(ctx, key, client.WithRejectedVersion(token.Version))
//
// Errors are of type [*Error]; use errors.Is with [ErrNotFound], [ErrCoolingDown]
// and so on to tell them apart.
//
// One Client never sees an account's version fall: it remembers the newest
// that it was given and asks for at least that.
package client
