package oauth_test

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/oauth"
	"github.com/tokenbus/tokenbus/refresh"
)

// connectProxy is an HTTP proxy that knows CONNECT and one user.
func connectProxy(t *testing.T, used *atomic.Int32) string {
	return listen(t, func(conn net.Conn) {
		br := bufio.NewReader(conn)
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		want := "Basic " + base64.StdEncoding.EncodeToString([]byte("user:"+proxySecret))
		if r.Method != http.MethodConnect || r.Header.Get("Proxy-Authorization") != want {
			_, _ = io.WriteString(conn, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
			return
		}
		target, err := net.Dial("tcp", r.RequestURI)
		if err != nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
			return
		}
		used.Add(1)
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		splice(conn, br, target)
	})
}

// socksProxy is a SOCKS5 proxy that knows one user.
func socksProxy(t *testing.T, used *atomic.Int32) string {
	return listen(t, func(conn net.Conn) {
		br := bufio.NewReader(conn)
		read := func(n int) []byte {
			b := make([]byte, n)
			_, _ = io.ReadFull(br, b)
			return b
		}
		read(int(read(2)[1])) // the methods
		_, _ = conn.Write([]byte{5, 2})
		user := read(int(read(2)[1]))
		password := read(int(read(1)[0]))
		if string(user) != "user" || string(password) != proxySecret {
			_, _ = conn.Write([]byte{1, 1})
			return
		}
		_, _ = conn.Write([]byte{1, 0})
		var host string
		switch read(4)[3] {
		case 1:
			host = net.IP(read(4)).String()
		case 3:
			host = string(read(int(read(1)[0])))
		case 4:
			host = net.IP(read(16)).String()
		}
		port := binary.BigEndian.Uint16(read(2))
		target, err := net.Dial("tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
		if err != nil {
			_, _ = conn.Write([]byte{5, 5, 0, 1, 0, 0, 0, 0, 0, 0})
			return
		}
		used.Add(1)
		_, _ = conn.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
		splice(conn, br, target)
	})
}

func viaProxy(u string) func(*account.Credentials) {
	return func(c *account.Credentials) { c.ProxyURL = account.NewSecret(u) }
}

func TestSendThroughProxies(t *testing.T) {
	var used atomic.Int32
	for scheme, address := range map[string]string{
		"http": connectProxy(t, &used), "socks5": socksProxy(t, &used), "socks5h": socksProxy(t, &used),
	} {
		for _, secure := range []bool{false, true} {
			t.Run(scheme+"/tls="+strconv.FormatBool(secure), func(t *testing.T) {
				e := newEndpoint(t, secure, ok)
				cfg := oauth.Config{Definitions: define(e.URL)}
				if secure {
					cfg.TLS = e.trust()
				}
				c := newClient(t, cfg)
				good := scheme + "://user:" + proxySecret + "@" + address
				before := used.Load()
				asked := 0
				req := request(viaProxy(good))
				req.BeforeFirstByte = func() error {
					if asked++; used.Load() != before+1 {
						t.Error("asked before the tunnel was there")
					}
					return nil
				}
				answer, err := c.Send(t.Context(), req)
				if err != nil || answer.Status != 200 || used.Load() != before+1 || asked != 1 {
					t.Errorf("%d, %v, used %d, asked %d", answer.Status, err, used.Load()-before, asked)
				}
				req = request(viaProxy(good))
				no := errors.New("no")
				req.BeforeFirstByte = func() error { return no }
				if _, err = c.Send(t.Context(), req); !errors.Is(err, no) {
					t.Error(err)
				}
				sendError(t, err, false)
				_, err = c.Send(t.Context(), request(viaProxy(scheme+"://user:wrong-"+proxySecret+"@"+address)))
				sendError(t, err, false)
				e.Close()
				if n := len(e.all()); n != 1 {
					t.Errorf("%d requests", n)
				}
			})
		}
	}
}

// An https proxy: TLS to the proxy, and TLS to the endpoint inside it.
func TestSendThroughAnHTTPSProxy(t *testing.T) {
	e := newEndpoint(t, true, ok)
	proxy := newEndpoint(t, true, nil)
	proxy.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		target, err := net.Dial("tcp", r.Host)
		if err != nil {
			t.Error(err)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		splice(conn, rw.Reader, target)
	})
	c := newClient(t, oauth.Config{Definitions: define(e.URL), TLS: e.trust()})
	answer, err := c.Send(t.Context(), request(viaProxy(proxy.URL)))
	if err != nil || answer.Status != 200 {
		t.Errorf("%d, %v", answer.Status, err)
	}
}

// A proxy that is down means no exchange: never a direct one.
func TestProxyIsBinding(t *testing.T) {
	e := newEndpoint(t, false, ok)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	down := ln.Addr().String()
	_ = ln.Close()
	silent := listen(t, func(net.Conn) {})
	chatty := listen(t, func(c net.Conn) {
		_, _ = bufio.NewReader(c).ReadString('\n')
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"+answerSecret)
	})
	var used atomic.Int32
	for _, tt := range []struct {
		name, own, platform string
	}{
		{"http down", "http://user:" + proxySecret + "@" + down, ""},
		{"https down", "https://user:" + proxySecret + "@" + down, ""},
		{"socks down", "socks5://user:" + proxySecret + "@" + down, ""},
		{"http hangs up", "http://user:" + proxySecret + "@" + silent, ""},
		{"socks hangs up", "socks5h://user:" + proxySecret + "@" + silent, ""},
		{"https is no TLS", "https://user:" + proxySecret + "@" + chatty, ""},
		{"answers for the endpoint", "http://user:" + proxySecret + "@" + chatty, ""},
		{"the platform's is down", "", "http://user:" + proxySecret + "@" + down},
		{"the account's is down, the platform's isn't", "http://user:" + proxySecret + "@" + down, "http://user:" + proxySecret + "@" + connectProxy(t, &used)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newClient(t, oauth.Config{Definitions: define(e.URL, func(d *oauth.Definition) { d.ProxyURL = account.NewSecret(tt.platform) })})
			req := request(viaProxy(tt.own))
			req.BeforeFirstByte = func() error { t.Error("asked to send"); return nil }
			_, err := c.Send(t.Context(), req)
			sendError(t, err, false)
			if errors.Is(err, refresh.ErrMisconfigured) {
				t.Errorf("blames the platform: %v", err)
			}
		})
	}
	if n := e.connections.Load(); n != 0 || used.Load() != 0 {
		t.Errorf("%d connections, proxy used %d times", n, used.Load())
	}
}

// Proxies in the environment are not asked.
func TestEnvironmentProxyIsIgnored(t *testing.T) {
	e := newEndpoint(t, false, ok)
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"} {
		t.Setenv(name, "http://127.0.0.1:1")
	}
	if _, err := newClient(t, oauth.Config{Definitions: define(e.URL)}).Send(t.Context(), request()); err != nil {
		t.Error(err)
	}
}
