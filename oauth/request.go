package oauth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strconv"

	"golang.org/x/net/http/httpguts"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/refresh"
)

// request is one refresh request, ready for the wire.
type request struct {
	url   *url.URL
	proxy *url.URL // nil: direct
	bytes []byte   // holds secrets
}

// build makes the refresh request of RFC 6749 §6. Its errors hold no secret;
// one that is the definition's fault wraps [refresh.ErrMisconfigured].
func (c *Client) build(d Definition, cred account.Credentials) (request, error) {
	var out request
	if cred.RefreshToken.IsZero() {
		return out, errors.New("the account has no refresh token")
	}
	var err error
	if out.url, err = parseTokenURL(d.TokenURL); err != nil {
		return out, fmt.Errorf("%w: token_url %w", refresh.ErrMisconfigured, err)
	}
	if out.proxy, err = choosePath(d, cred); err != nil {
		return out, err
	}
	id, secret, err := chooseClient(d, cred)
	if err != nil {
		return out, err
	}

	fields := make(map[string]string, len(d.Params)+4)
	maps.Copy(fields, d.Params)
	fields["grant_type"] = "refresh_token"
	fields["refresh_token"] = cred.RefreshToken.Reveal()
	header := c.header(d, cred)
	switch d.Auth {
	case AuthBasic:
		// RFC 6749 §2.3.1: both are form-encoded first.
		probe := http.Request{Header: header}
		probe.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret.Reveal()))
	default: // with AuthNone there is no secret
		fields["client_id"] = id
		if !secret.IsZero() {
			fields["client_secret"] = secret.Reveal()
		}
	}
	body, contentType := encode(d.Encoding, fields)
	header.Set("Content-Type", contentType)
	header.Set("Connection", "close")
	header.Set("Content-Length", strconv.Itoa(len(body)))
	out.bytes, err = serialize(out.url, header, body)
	return out, err
}

// serialize writes the request as HTTP/1.1 into one buffer, so that it leaves
// in one write.
func serialize(u *url.URL, header http.Header, body []byte) ([]byte, error) {
	host, err := httpguts.PunycodeHostPort(u.Host)
	if err != nil || !httpguts.ValidHostHeader(host) {
		return nil, errors.New("the token endpoint's host is no host name")
	}
	var buf bytes.Buffer
	fmt.Fprintf(&buf, "POST %s HTTP/1.1\r\nHost: %s\r\n", u.RequestURI(), host)
	if err := header.Write(&buf); err != nil {
		return nil, errors.New("the request can't be written")
	}
	buf.WriteString("\r\n")
	buf.Write(body)
	return buf.Bytes(), nil
}

func (c *Client) header(d Definition, cred account.Credentials) http.Header {
	header := http.Header{}
	header.Set("Accept", "application/json")
	header.Set("User-Agent", c.userAgent)
	for name, field := range d.AccountHeaders {
		if v := cred.Extra.Text(field); v != "" && httpguts.ValidHeaderFieldValue(v) {
			header.Set(name, v)
		}
	}
	for name, value := range d.Headers {
		header.Set(name, value)
	}
	return header
}

// choosePath returns the proxy to take: the account's own, else the
// definition's, else nil.
func choosePath(d Definition, cred account.Credentials) (*url.URL, error) {
	if !cred.ProxyURL.IsZero() {
		u, err := parseProxyURL(cred.ProxyURL)
		if err != nil {
			return nil, fmt.Errorf("the account's proxy_url %w", err)
		}
		return u, nil
	}
	if d.ProxyURL.IsZero() {
		return nil, nil
	}
	u, err := parseProxyURL(d.ProxyURL)
	if err != nil {
		return nil, fmt.Errorf("%w: proxy_url %w", refresh.ErrMisconfigured, err)
	}
	return u, nil
}

// chooseClient returns the client to be: the account's own, else the
// definition's. The definition's secret belongs to the definition's client and
// goes with no other.
func chooseClient(d Definition, cred account.Credentials) (id string, secret account.Secret, err error) {
	id, secret = cred.ClientID, cred.ClientSecret
	own := id != "" && id != d.ClientID
	if id == "" {
		id = d.ClientID
	}
	if id == "" {
		return "", secret, errors.New("the account has no client_id and its platform defines none")
	}
	if d.Auth == AuthNone {
		return id, account.Secret{}, nil
	}
	if secret.IsZero() && !own {
		secret = d.ClientSecret
	}
	switch {
	case !secret.IsZero():
		return id, secret, nil
	case own && d.Auth == AuthBody:
		return id, secret, nil // a public client
	case own:
		return "", secret, errors.New("the account has a client_id without a client_secret")
	case d.ClientSecretEnv != "":
		return "", secret, fmt.Errorf("%w: the environment variable %s holds no client secret", refresh.ErrMisconfigured, d.ClientSecretEnv)
	}
	return "", secret, fmt.Errorf("%w: the platform has no client secret", refresh.ErrMisconfigured)
}

func encode(e Encoding, fields map[string]string) (body []byte, contentType string) {
	if e == EncodingJSON {
		body, _ = json.Marshal(fields) // strings always marshal
		return body, "application/json"
	}
	form := make(url.Values, len(fields))
	for k, v := range fields {
		form.Set(k, v)
	}
	return []byte(form.Encode()), "application/x-www-form-urlencoded"
}
