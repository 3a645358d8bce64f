package oauth_test

import (
	"context"
	"fmt"
	"net/http/httptest"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/oauth"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
	"github.com/tokenbus/tokenbus/refresh"
)

func Example() {
	server, err := oauthtest.New(oauthtest.Config{Deterministic: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	web := httptest.NewServer(server)
	defer web.Close()
	_, token := server.NewGrant("alice")

	file := "providers:\n  mine:\n    token_url: " + web.URL + "/token\n    client_id: app\n"
	definitions, err := oauth.ParseFile("providers.yaml", []byte(file), func(string) string { return "" })
	if err != nil {
		fmt.Println(err)
		return
	}
	client, err := oauth.New(oauth.Config{Definitions: definitions})
	if err != nil {
		fmt.Println(err)
		return
	}
	exchange := func() {
		raw, err := client.Send(context.Background(), refresh.SendRequest{
			Platform:    "mine",
			Credentials: account.Credentials{RefreshToken: account.NewSecret(token)},
		})
		if err != nil {
			fmt.Println(err)
			return
		}
		v := client.Judge("mine", raw)
		fmt.Println(v.Outcome, v.Credentials.AccessToken.Reveal(), v.Code, v.Lifetime, v.Reused)
	}
	exchange()
	exchange()
	// Output:
	// granted access-4  1h0m0s false
	// rejected  invalid_grant 0s true
}
