package rediskv

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"

	"github.com/redis/go-redis/v9"
)

var (
	// ErrCredentials: the server refuses our credentials, or our user may not
	// do what it must.
	ErrCredentials = errors.New("the server refuses the credentials")
	// ErrUnusable: the server is too old, isn't of the kind that the URL says,
	// or isn't who it should be.
	ErrUnusable = errors.New("the server can't be used")
)

// Final reports whether err stays until somebody changes the URL or the server's
// configuration. All others may go away by themselves.
func Final(err error) bool {
	return errors.Is(err, ErrCredentials) || errors.Is(err, ErrUnusable)
}

// explained is an error that also says what kind it is and what to do about it,
// in one line.
type explained struct {
	causes []error
	remedy string
}

func (e *explained) Error() string {
	parts := make([]string, 0, len(e.causes))
	for _, err := range e.causes {
		parts = append(parts, strings.ReplaceAll(err.Error(), "\n", ", "))
	}
	text := strings.Join(parts, ": ")
	if e.remedy != "" {
		text += "; " + e.remedy
	}
	return text
}

func (e *explained) Unwrap() []error { return e.causes }

// explain turns the driver's errors into ours.
func (c *Client) explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	err = reveal(err)
	if cluster, ok := c.redis.(*redis.ClusterClient); ok && !isAnswer(err) {
		cluster.ReloadState(ctx) // the node may have been replaced
	}
	e := &explained{}
	if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
		e.causes = append(e.causes, ctx.Err())
	}
	remedy, kind := c.diagnose(err)
	if kind != nil {
		e.causes = append(e.causes, kind)
	}
	e.causes, e.remedy = append(e.causes, err), remedy
	return e
}

// isAnswer reports whether a server said this.
func isAnswer(err error) bool {
	_, ok := errors.AsType[redis.Error](err)
	return ok
}

// diagnose says what kind of error this is, nil for those that may go away by
// themselves, and what to do about it. Old servers wrap the errors of what a
// script does, so words are looked for anywhere.
func (c *Client) diagnose(err error) (remedy string, kind error) {
	if remedy, kind := diagnoseTLS(err); kind != nil {
		return remedy, kind
	}
	if !isAnswer(err) {
		return "", nil
	}
	text := err.Error()
	says := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(text, w) {
				return true
			}
		}
		return false
	}
	t := c.target
	switch {
	case redis.IsAuthError(err), says("invalid password", "called without any password configured"):
		if t.sentinel != nil {
			return "correct the --cache-url: user:password@ is what the Sentinels want, username= and password= what the server wants", ErrCredentials
		}
		return "correct user and password in the --cache-url", ErrCredentials
	case redis.IsPermissionError(err), says("can't run this command", "can't access at least one of the keys"):
		return "give the user " + c.rights(), ErrCredentials
	case t.sentinel != nil && errors.Is(err, redis.Nil):
		return "no Sentinel has a master named " + t.sentinel.MasterName + ": correct master_name= in the --cache-url", ErrUnusable
	case t.sentinel != nil && says("unknown command"):
		return "these are no Sentinels: correct the --cache-url, or leave master_name= out", ErrUnusable
	case t.cluster != nil && says("cluster support disabled"):
		return "it is no node of a Cluster: correct the --cache-url, or leave addr= out", ErrUnusable
	case t.cluster == nil && says("MOVED ", "not allowed in cluster mode"):
		return nodeOfCluster, ErrUnusable
	case says("DB index is out of range"):
		return "it has fewer databases: correct the number in the --cache-url", ErrUnusable
	case says("READONLY "):
		return "it is a replica: " + namePrimary, nil
	case says("OOM "):
		return "its memory is full: raise maxmemory, or set maxmemory-policy allkeys-lru", nil
	}
	return "", nil
}

const (
	nodeOfCluster = "it is a node of a Cluster: name its nodes in the --cache-url with addr=host:port, or this one twice"
	namePrimary   = "the --cache-url must name the primary, or Sentinels (master_name=) or a Cluster (addr=)"
)

// diagnoseTLS finds errors of a TLS handshake that no waiting helps against.
func diagnoseTLS(err error) (remedy string, kind error) {
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "the host in the --cache-url must be a name that the certificate has", ErrUnusable
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "name the certificates of its authority with SSL_CERT_FILE", ErrUnusable
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "it doesn't speak TLS at this port: use its TLS port, or redis:// in the --cache-url", ErrUnusable
	}
	return "", nil
}

// rights is what the user must be allowed, as Redis writes it.
func (c *Client) rights() string {
	rights := "+@read +@write +@scripting +@connection ~" + c.prefix + ":*"
	switch {
	case c.target.cluster != nil:
		rights += " +cluster|slots"
	case c.target.sentinel != nil:
		rights += " (at the Sentinels: +sentinel|get-master-addr-by-name +sentinel|sentinels +@connection +subscribe allchannels)"
	}
	return rights
}
