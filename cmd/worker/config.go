package main

import (
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/rotation"
)

// none turns a listener off; embedded and nats choose the built-in server and
// its buckets; auto and off are values of --refresh-ahead.
const (
	none     = "none"
	embedded = "embedded"
	onNATS   = "nats"
	auto     = "auto"
	off      = "off"
)

// Bounds of --lease-ttl: below, a busy machine loses its leases; above, a dead
// worker's accounts wait too long.
const (
	minLeaseTTL = time.Second
	maxLeaseTTL = 10 * time.Minute
)

// config is a worker's configuration, checked as far as that is possible
// without touching the network.
type config struct {
	NATSURL       string // "embedded" or server URLs, comma-separated
	NATSListen    string // "none" or host:port
	NATSAuth      string // "nkey" or "none"
	NATSCreds     string
	NATSNKey      string
	NATSCA        string
	NATSCert      string
	NATSKey       string
	NATSReplicas  int // 0: automatic
	NATSTags      []string
	SubjectPrefix string

	StoreURL  string
	CacheURL  string
	DataDir   string
	Keyset    string // "": <DataDir>/keyset.json, made if need be
	Providers string

	L1MaxAccounts int

	RefreshSkew  time.Duration
	CacheSkew    time.Duration
	MinTTL       time.Duration
	LeaseTTL     time.Duration
	L1MaxAge     time.Duration
	RefreshAhead refreshAhead

	HTTPAddr  string // "none" or host:port
	PprofAddr string // "none" or host:port, loopback
	LogLevel  slog.Level
	LogFormat string // "auto", "text" or "json"
	WorkerID  string // "": made up at the start

	// Unknown are variables of the environment that look like settings and are
	// none. A provider's secret may be in one of them.
	Unknown []string
}

// refreshAhead is the value of --refresh-ahead: automatic, off, or a time.
type refreshAhead struct {
	Auto, Off bool
	Before    time.Duration
}

// Embedded reports whether this worker runs its own NATS server.
func (c config) Embedded() bool { return c.NATSURL == embedded }

// keysetPath is the keyset's file.
func (c config) keysetPath() string {
	if c.Keyset != "" {
		return c.Keyset
	}
	return filepath.Join(c.DataDir, "keyset.json")
}

// timing is the configuration as the provider has it.
func (c config) timing() rotation.Timing {
	t := rotation.Timing{
		RefreshSkew: c.RefreshSkew, CacheSkew: c.CacheSkew, MinTTL: c.MinTTL, LeaseTTL: c.LeaseTTL, L1MaxAge: c.L1MaxAge,
		RefreshAhead: c.RefreshAhead.Before,
	}
	switch {
	case c.RefreshAhead.Auto:
		t.RefreshAhead = rotation.RefreshAheadAuto
	case c.RefreshAhead.Off:
		t.RefreshAhead = rotation.RefreshAheadOff
	}
	return t
}

// natsURLs are the servers to connect to.
func (c config) natsURLs() []string {
	urls := strings.Split(c.NATSURL, ",")
	for i := range urls {
		urls[i] = strings.TrimSpace(urls[i])
	}
	return urls
}

// scrubber returns what takes the secrets of the URLs out of a text.
func (c config) scrubber() func(string) string {
	var pairs []string
	for _, u := range append(c.natsURLs(), c.StoreURL, c.CacheURL) {
		if parsed, err := url.Parse(u); err == nil { // Redis takes one there too
			if secret := parsed.Query().Get("password"); secret != "" {
				pairs = append(pairs, secret, "[redacted]", url.QueryEscape(secret), "[redacted]")
			}
		}
		_, rest, _ := strings.Cut(u, "://")
		user, _, ok := strings.Cut(rest, "@")
		if !ok {
			continue
		}
		name, password, ok := strings.Cut(user, ":")
		if !ok {
			password = name // a NATS token
		}
		for _, secret := range []string{password, unescape(password)} {
			if secret != "" {
				pairs = append(pairs, secret, "[redacted]")
			}
		}
	}
	return strings.NewReplacer(pairs...).Replace
}

func unescape(s string) string {
	if plain, err := url.PathUnescape(s); err == nil {
		return plain
	}
	return s
}

// readConfig builds the configuration from flags and environment. The error
// joins every problem there is.
func readConfig(flag, env lookupFunc) (config, error) {
	r := newReader(runOptions(), flag, env)
	c := config{
		NATSURL:       r.natsURL(),
		NATSListen:    r.address("nats-listen"),
		NATSAuth:      r.oneOf("nats-auth", "nkey", none),
		NATSCreds:     r.file("nats-creds"),
		NATSNKey:      r.file("nats-nkey"),
		NATSCA:        r.file("nats-ca"),
		NATSCert:      r.file("nats-cert"),
		NATSKey:       r.file("nats-key"),
		NATSReplicas:  r.replicas(),
		NATSTags:      r.tags(),
		SubjectPrefix: r.get("subject-prefix"),
		StoreURL:      r.storeURL(),
		CacheURL:      r.cacheURL(),
		DataDir:       r.get("data-dir"),
		Keyset:        r.get("keyset"),
		Providers:     r.file("providers"),
		L1MaxAccounts: r.count("l1-max-accounts"),
		RefreshSkew:   r.duration("refresh-skew", time.Second, 0),
		CacheSkew:     r.duration("cache-skew", time.Second, 0),
		MinTTL:        r.duration("min-ttl", time.Second, 0),
		LeaseTTL:      r.duration("lease-ttl", minLeaseTTL, maxLeaseTTL),
		L1MaxAge:      r.duration("l1-max-age", time.Millisecond, 0),
		RefreshAhead:  r.refreshAhead(),
		HTTPAddr:      r.address("http-addr"),
		PprofAddr:     r.loopback("pprof-addr"),
		LogFormat:     r.oneOf("log-format", auto, "text", "json"),
		WorkerID:      r.workerID(),
	}
	c.LogLevel = r.logLevel()
	if _, err := events.NewSubjects(c.SubjectPrefix); err != nil {
		r.wrong("subject-prefix", c.SubjectPrefix, "want parts of A-Z, a-z, 0-9, _ and -, joined by dots")
	}
	if c.DataDir == "" {
		r.problem("data-dir", "is empty; name a folder")
	}
	r.checkNATS(c)
	r.checkKeyset(c)
	return c, errors.Join(r.problems...)
}

// checkNATS checks what belongs together and what excludes each other.
func (r *reader) checkNATS(c config) {
	if c.Embedded() {
		for _, name := range []string{"nats-creds", "nats-nkey", "nats-ca", "nats-cert", "nats-key"} {
			if r.settings[name].set {
				r.problem(name, "is for a server at --nats-url, and --nats-url is embedded; leave one of the two out")
			}
		}
		return
	}
	for _, name := range []string{"nats-listen", "nats-auth"} {
		if r.settings[name].set {
			r.problem(name, "is for the embedded server alone, and --nats-url names another; leave one of the two out"+r.whereURLIsFrom())
		}
	}
	if c.NATSCreds != "" && c.NATSNKey != "" {
		r.problem("nats-nkey", "excludes --nats-creds; give one of the two")
	}
	if c.NATSCert != "" && c.NATSKey == "" {
		r.problem("nats-key", "is missing; --nats-cert needs it")
	}
	if c.NATSKey != "" && c.NATSCert == "" {
		r.problem("nats-cert", "is missing; --nats-key needs it")
	}
}

// whereURLIsFrom says that --nats-url comes from the environment, where nobody
// may remember it: the demo's variables, in a shell that has read them, make any
// worker one of the demo's. "" where it was given on the command line.
func (r *reader) whereURLIsFrom() string {
	s := r.settings["nats-url"]
	if !s.byEnv {
		return ""
	}
	return " (--nats-url is " + redactURL(s.given) + ", from " + s.option.env() + ")"
}

func (r *reader) checkKeyset(c config) {
	if c.Keyset == "" {
		if !c.Embedded() {
			r.problem("keyset", "is missing; a worker that joins a fleet needs a copy of the fleet's keyset (the first worker made it as <data-dir>/keyset.json)"+r.whereURLIsFrom())
		}
		return
	}
	if c.Embedded() {
		if _, err := os.Stat(c.Keyset); errors.Is(err, fs.ErrNotExist) {
			return // made at the first start
		}
	}
	r.file("keyset")
}

func (r *reader) replicas() int {
	const name = "nats-replicas"
	v := r.get(name)
	if v == auto {
		return 0
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > 5 {
		r.wrong(name, v, "want auto, or 1 to 5")
	}
	return n
}

// count reads a whole number, 1 or more.
func (r *reader) count(name string) int {
	v := r.get(name)
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		r.wrong(name, v, "want a whole number, 1 or more")
	}
	return n
}

// loopback reads host:port of this machine, or none.
func (r *reader) loopback(name string) string {
	before := len(r.problems)
	v := r.address(name)
	if v == none || len(r.problems) > before {
		return v
	}
	host, _, _ := net.SplitHostPort(v)
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
		r.wrong(name, v, "want 127.0.0.1:port, [::1]:port, localhost:port or none; what it serves must not leave this machine")
	}
	return v
}

func (r *reader) tags() (tags []string) {
	const name = "nats-placement-tags"
	v := r.get(name)
	if v == "" {
		return nil
	}
	for tag := range strings.SplitSeq(v, ",") {
		if tag = strings.TrimSpace(tag); tag == "" || strings.ContainsAny(tag, " \t") {
			r.wrong(name, v, "want tags separated by commas, such as region:eu,ssd")
			return nil
		}
		tags = append(tags, tag)
	}
	return tags
}

func (r *reader) natsURL() string {
	const name = "nats-url"
	v := r.get(name)
	if v == embedded {
		return v
	}
	for one := range strings.SplitSeq(v, ",") {
		u, err := url.Parse(strings.TrimSpace(one))
		if err != nil || u.Host == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) || !isPort(u.Port()) {
			r.wrong(name, redactURL(v), "want embedded, or nats://host:port, several separated by commas")
			break
		}
	}
	return v
}

// isPort reports whether text is a port's number, or nothing.
func isPort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return text == "" || err == nil && n > 0
}

func (r *reader) storeURL() string {
	const name = "store-url"
	v := r.get(name)
	if v == onNATS {
		return v
	}
	rest, ok := strings.CutPrefix(v, "mongodb://")
	if !ok {
		rest, ok = strings.CutPrefix(v, "mongodb+srv://")
	}
	if !ok {
		r.wrong(name, redactURL(v), "want nats, or mongodb://host:port/database")
		return v
	}
	rest, _, _ = strings.Cut(rest, "?")
	hosts, database, _ := strings.Cut(rest[strings.LastIndex(rest, "@")+1:], "/")
	switch {
	case hosts == "":
		r.wrong(name, redactURL(v), "names no host; want mongodb://host:port/database")
	case database == "":
		r.wrong(name, redactURL(v), "names no database; want mongodb://host:port/database")
	}
	return v
}

func (r *reader) cacheURL() string {
	const name = "cache-url"
	v := r.get(name)
	if v == onNATS {
		return v
	}
	u, err := url.Parse(v)
	if err != nil || u.Host == "" || !slices.Contains([]string{"redis", "rediss"}, u.Scheme) {
		r.wrong(name, redactURL(v), "want nats, redis://host:port/0 or rediss://host:port/0")
	}
	return v
}

func (r *reader) refreshAhead() refreshAhead {
	const name = "refresh-ahead"
	switch v := r.get(name); v {
	case auto:
		return refreshAhead{Auto: true}
	case off:
		return refreshAhead{Off: true}
	default:
		d, err := time.ParseDuration(v)
		if err != nil || d <= 0 {
			r.wrong(name, v, "want auto, off, or a time such as 10m")
		}
		return refreshAhead{Before: d}
	}
}

func (r *reader) logLevel() slog.Level {
	var level slog.Level
	if err := level.UnmarshalText([]byte(r.oneOf("log-level", "debug", "info", "warn", "error"))); err != nil {
		return slog.LevelInfo // oneOf has noted the problem
	}
	return level
}

func (r *reader) workerID() string {
	const name = "worker-id"
	v := r.get(name)
	if v != "" && !regexp.MustCompile(`^[A-Za-z0-9._-]{1,100}$`).MatchString(v) {
		r.wrong(name, v, "want 1 to 100 characters of A-Z, a-z, 0-9, dot, _ and -")
	}
	return v
}
