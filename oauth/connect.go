package oauth

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/net/proxy"
)

// proxyPorts are the schemes of proxies with their default ports.
var proxyPorts = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}

// maxConnectHeader bounds a proxy's answer to CONNECT, in bytes.
const maxConnectHeader = 16 << 10

// connect opens a connection on which the request is the next thing to write:
// through the proxy if there is one, or not at all.
func (c *Client) connect(ctx context.Context, r request) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.dialTimeout)
	defer cancel()
	port := "80"
	if r.url.Scheme == "https" {
		port = "443"
	}
	conn, err := c.path(ctx, hostPort(r.url, port), r.proxy)
	if err != nil || r.url.Scheme != "https" {
		return conn, err
	}
	return c.secure(ctx, conn, r.url.Hostname())
}

// path opens the way to address.
func (c *Client) path(ctx context.Context, address string, via *url.URL) (net.Conn, error) {
	if via == nil {
		return c.dial(ctx, "tcp", address)
	}
	var conn net.Conn
	var err error
	switch via.Scheme {
	case "socks5", "socks5h":
		conn, err = c.socks(ctx, address, via)
	default:
		conn, err = c.tunnel(ctx, address, via)
	}
	if err != nil {
		return nil, fmt.Errorf("through the %s proxy %s: %w", via.Scheme, hostPort(via, proxyPorts[via.Scheme]), err)
	}
	return conn, nil
}

// secure does the TLS handshake with host over conn, and closes conn if it
// fails.
func (c *Client) secure(ctx context.Context, conn net.Conn, host string) (net.Conn, error) {
	cfg := c.tls.Clone()
	cfg.ServerName = host
	secured := tls.Client(conn, cfg)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("TLS handshake with %s: %w", host, err)
	}
	return secured, nil
}

// dialFunc makes a function a dialer of golang.org/x/net/proxy.
type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

func (f dialFunc) Dial(network, address string) (net.Conn, error) {
	return f(context.Background(), network, address)
}

func (f dialFunc) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return f(ctx, network, address)
}

// socks connects through a SOCKS5 proxy, which resolves the name with both
// spellings of the scheme.
func (c *Client) socks(ctx context.Context, address string, via *url.URL) (net.Conn, error) {
	var auth *proxy.Auth
	if via.User != nil {
		password, _ := via.User.Password()
		auth = &proxy.Auth{User: via.User.Username(), Password: password}
	}
	dialer, err := proxy.SOCKS5("tcp", hostPort(via, proxyPorts[via.Scheme]), auth, dialFunc(c.dial))
	if err != nil {
		return nil, errors.New("the proxy can't be used")
	}
	return dialer.(proxy.ContextDialer).DialContext(ctx, "tcp", address)
}

// tunnel connects through an HTTP proxy's CONNECT, for http targets too: a
// tunnel is the one thing that no proxy replays.
func (c *Client) tunnel(ctx context.Context, address string, via *url.URL) (net.Conn, error) {
	conn, err := c.dial(ctx, "tcp", hostPort(via, proxyPorts[via.Scheme]))
	if err != nil {
		return nil, err
	}
	if via.Scheme == "https" {
		if conn, err = c.secure(ctx, conn, via.Hostname()); err != nil {
			return nil, err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err = connectThrough(conn, address, via.User)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	return conn, nil
}

// connectThrough asks the proxy at the other end of conn for a tunnel.
func connectThrough(conn net.Conn, address string, user *url.Userinfo) error {
	ask := "CONNECT " + address + " HTTP/1.1\r\nHost: " + address + "\r\n"
	if user != nil {
		password, _ := user.Password()
		ask += "Proxy-Authorization: Basic " +
			base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)) + "\r\n"
	}
	if _, err := io.WriteString(conn, ask+"\r\n"); err != nil {
		return fmt.Errorf("ask for a tunnel: %w", err)
	}
	br := bufio.NewReader(&io.LimitedReader{R: conn, N: maxConnectHeader})
	resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return errors.New("the proxy gave no HTTP answer to CONNECT")
	}
	switch {
	case resp.StatusCode/100 != 2:
		return fmt.Errorf("the proxy answered %d to CONNECT", resp.StatusCode)
	case br.Buffered() > 0:
		return errors.New("the proxy sent more than an answer to CONNECT")
	}
	return nil
}
