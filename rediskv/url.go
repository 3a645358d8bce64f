package rediskv

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// target is what a URL names: one of the three kinds of servers.
type target struct {
	single   *redis.Options
	cluster  *redis.ClusterOptions
	sentinel *redis.FailoverOptions
	name     string // the URL without user, password and most options
}

// Options of URLs that are taken, by kind of server. They mean what they mean
// to the driver.
var (
	poolOptions = []string{
		"client_name", "protocol", "pool_fifo", "pool_size", "min_idle_conns", "max_idle_conns", "max_active_conns",
		"max_concurrent_dials", "conn_max_idle_time", "conn_max_lifetime", "conn_max_lifetime_jitter",
	}
	singleOptions   = slices.Concat(poolOptions, []string{"db", "skip_verify"})
	clusterOptions  = slices.Concat(poolOptions, []string{"addr"})
	sentinelOptions = slices.Concat(poolOptions, []string{"db", "skip_verify", "addr", "master_name", "username", "password"})
)

// refusedOptions are options of the driver that would break a promise.
var refusedOptions = map[string]string{
	"max_retries":               "calls are never repeated",
	"min_retry_backoff":         "calls are never repeated",
	"max_retry_backoff":         "calls are never repeated",
	"dialer_retries":            "calls are never repeated",
	"dialer_retry_timeout":      "calls are never repeated",
	"max_redirects":             "it is not for users to choose",
	"dial_timeout":              "calls end in time by themselves",
	"read_timeout":              "calls end in time by themselves",
	"write_timeout":             "calls end in time by themselves",
	"pool_timeout":              "calls end in time by themselves",
	"context_timeout_enabled":   "calls end in time by themselves",
	"read_only":                 "primaries are asked alone",
	"replica_only":              "primaries are asked alone",
	"route_by_latency":          "primaries are asked alone",
	"route_randomly":            "primaries are asked alone",
	"use_disconnected_replicas": "primaries are asked alone",
	"username":                  "it is for Sentinels (master_name=); else user:password@ stands before the host",
	"password":                  "it is for Sentinels (master_name=); else user:password@ stands before the host",
}

// parseURL checks the URL. Its errors show neither user nor password.
func parseURL(raw string) (*target, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok || scheme != "redis" && scheme != "rediss" {
		return nil, errors.New("want redis://host:port or rediss://host:port")
	}
	authority, tail := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, tail = rest[:i], rest[i:]
	}
	// A password that isn't escaped ends up in places that errors quote.
	if strings.ContainsAny(tail, "@#") {
		return nil, errors.New("the characters @, # and those of user and password that mean something in a URL must be percent-encoded")
	}
	user, host := "", authority
	if i := strings.LastIndex(authority, "@"); i >= 0 {
		user, host = authority[:i], authority[i+1:]
	}
	if host == "" || strings.HasPrefix(host, ":") {
		return nil, errors.New("it names no host")
	}
	path, query, _ := strings.Cut(tail, "?")
	options, err := url.ParseQuery(query)
	if err != nil {
		return nil, errors.New("an option is malformed: what means something in a URL must be percent-encoded")
	}
	if _, err := url.Parse(scheme + "://" + host + path); err != nil {
		if user == "" && strings.Contains(host, ":") { // it may be user:password
			return nil, errors.New("its host or port is malformed: want redis://user:password@host:port/db")
		}
		if wrong, ok := errors.AsType[*url.Error](err); ok {
			err = wrong.Err // without the URL
		}
		return nil, err
	}
	name := displayName(scheme+"://"+host+path, options)
	t, err := parseKind(scheme+"://"+host+tail, path, options)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	t.name = name
	if user == "" {
		return t, nil
	}
	u, err := url.Parse(scheme + "://" + user + "@" + host)
	if err != nil {
		return nil, errors.New("user and password must be percent-encoded")
	}
	password, _ := u.User.Password()
	t.authenticate(u.User.Username(), password)
	return t, nil
}

// parseKind decides which kind of server the URL names, and lets the driver
// read it.
func parseKind(raw, path string, options url.Values) (*target, error) {
	t := &target{}
	var err error
	switch {
	case options.Has("master_name"):
		if err = checkOptions(options, sentinelOptions, "Sentinels"); err == nil {
			t.sentinel, err = redis.ParseFailoverURL(raw)
		}
		if err == nil && t.sentinel.MasterName == "" {
			err = errors.New("option master_name is empty")
		}
	case options.Has("addr"):
		if err = checkOptions(options, clusterOptions, "a Cluster"); err == nil {
			t.cluster, err = redis.ParseClusterURL(raw)
		}
		if err == nil && strings.Trim(path, "/0") != "" {
			err = errors.New("a Cluster (addr=) has database 0 alone")
		}
	default:
		if err = checkOptions(options, singleOptions, "one server"); err == nil {
			t.single, err = redis.ParseURL(raw)
		}
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

// authenticate sets what stands before the host: of Sentinels it is their own.
func (t *target) authenticate(user, password string) {
	switch {
	case t.sentinel != nil:
		t.sentinel.SentinelUsername, t.sentinel.SentinelPassword = user, password
	case t.cluster != nil:
		t.cluster.Username, t.cluster.Password = user, password
	default:
		t.single.Username, t.single.Password = user, password
	}
}

// tls returns the target's TLS configuration, or nil.
func (t *target) tls() *tls.Config {
	switch {
	case t.sentinel != nil:
		return t.sentinel.TLSConfig
	case t.cluster != nil:
		return t.cluster.TLSConfig
	default:
		return t.single.TLSConfig
	}
}

// checkOptions names the first option that isn't taken.
func checkOptions(options url.Values, taken []string, kind string) error {
	for _, name := range slices.Sorted(maps.Keys(options)) {
		switch why, refused := refusedOptions[name]; {
		case slices.Contains(taken, name):
		case refused:
			return fmt.Errorf("option %s: %s", name, why)
		case options.Has("password"): // then the name may be a part of it
			return errors.New("unexpected option: an & in a password must be percent-encoded")
		default:
			return fmt.Errorf("unexpected option: %s; those of %s are %s", name, kind, strings.Join(taken, ", "))
		}
	}
	return nil
}

// displayName returns what of a URL may be shown.
func displayName(server string, options url.Values) string {
	sep := "?"
	for _, key := range []string{"master_name", "addr"} {
		for _, value := range options[key] {
			server += sep + key + "=" + value
			sep = "&"
		}
	}
	return server
}
