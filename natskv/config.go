package natskv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/streams"
)

// Defaults of [Config].
const (
	DefaultPrefix   = "TOKENBUS"
	DefaultTimeout  = 5 * time.Second
	DefaultLeaseTTL = 30 * time.Second
)

// Config is what each constructor of this package takes. Buckets are created
// where they are missing. One that exists is used as it is and never changed:
// settings that differ from what would have been created are logged, and those
// that would lose what the bucket is for are an error that names them.
type Config struct {
	// JetStream is the connection to use. It stays the caller's. Required.
	JetStream jetstream.JetStream
	// Prefix is the first part of the bucket names: <Prefix>_ACCOUNTS,
	// <Prefix>_CACHE, <Prefix>_LEASES, <Prefix>_JOURNAL and <Prefix>_META, which
	// a fleet has whatever its account store is. Default: [DefaultPrefix].
	Prefix string
	// Replicas of buckets that are created, at most 5. Default: three in a
	// cluster of three or more servers, else one.
	Replicas int
	// PlacementTags are the tags of servers that buckets are created on.
	// Default: any server.
	PlacementTags []string
	// Storage of buckets that are created. Default: files.
	Storage jetstream.StorageType
	// LeaseTTL is the time to live of leases, 100ms to 10m. Default:
	// [DefaultLeaseTTL]. A bucket of leases that exists keeps its own.
	LeaseTTL time.Duration
	// Timeout bounds each call whose context ends later. Default:
	// [DefaultTimeout].
	Timeout time.Duration
	// Logger hears of settings that differ and of an index that lags.
	// Default: discard.
	Logger *slog.Logger
}

var validPrefix = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

func (c Config) withDefaults() (Config, error) {
	var problems []error
	if c.JetStream == nil {
		problems = append(problems, errors.New("no JetStream"))
	}
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	} else if !validPrefix.MatchString(c.Prefix) {
		problems = append(problems, fmt.Errorf("prefix %q: want 1 to 64 characters of A-Z, a-z, 0-9, _ and -", c.Prefix))
	}
	if c.Replicas < 0 || c.Replicas > 5 {
		problems = append(problems, fmt.Errorf("replicas %d: want 1 to 5", c.Replicas))
	}
	if c.LeaseTTL == 0 {
		c.LeaseTTL = DefaultLeaseTTL
	} else if c.LeaseTTL < minLeaseTTL || c.LeaseTTL > maxLeaseTTL {
		problems = append(problems, fmt.Errorf("lease TTL %v: want %v to %v", c.LeaseTTL, minLeaseTTL, maxLeaseTTL))
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	} else if c.Timeout < 0 {
		problems = append(problems, fmt.Errorf("timeout %v is negative", c.Timeout))
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if len(problems) > 0 {
		return c, fmt.Errorf("natskv config: %w", errors.Join(problems...))
	}
	return c, nil
}

// settings are what tells one bucket from another.
type settings struct {
	suffix string        // of the bucket's name
	about  string        // the stream's description
	keeps  promise       // what an adopted bucket must not break
	ttl    time.Duration // of the whole bucket; 0: none
	direct bool          // reads from any replica are allowed
	msgTTL bool          // a message may have a time to live of its own
	purges bool          // messages are removed without a trace
}

// promise says what a bucket may lose.
type promise int

const (
	everything promise = iota // nothing may be lost
	untilAge                  // what is older than the bucket's TTL, and nothing else
	nothing                   // all may be lost at any time: copies
)

// streamConfig returns the stream that the bucket is made of, as other clients
// of JetStream KV would create it. Replicas may be 0: automatic.
func (s settings) streamConfig(c Config) jetstream.StreamConfig {
	name := c.Prefix + s.suffix
	duplicates := 2 * time.Minute
	if s.ttl > 0 {
		duplicates = min(duplicates, s.ttl)
	}
	return jetstream.StreamConfig{
		Name: "KV_" + name, Description: s.about, Subjects: []string{"$KV." + name + ".>"},
		MaxMsgsPerSubject: 1, MaxMsgs: -1, MaxBytes: -1, MaxMsgSize: -1, MaxConsumers: -1,
		MaxAge: s.ttl, Duplicates: duplicates, Storage: c.Storage, Replicas: c.Replicas,
		Discard: jetstream.DiscardNew, AllowRollup: true, DenyDelete: true,
		AllowDirect: s.direct, AllowMsgTTL: s.msgTTL, Placement: streams.Placement(c.PlacementTags),
	}
}

// open creates the bucket or adopts the one that is there.
func open(ctx context.Context, c Config, s settings) (*bucket, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	b := &bucket{
		js: c.JetStream, name: c.Prefix + s.suffix, timeout: c.Timeout, log: c.Logger.With("bucket", c.Prefix+s.suffix),
	}
	b.subjects = "$KV." + b.name + "."
	b.api, b.publish = apiPrefix(c.JetStream.Options()), b.subjects
	if b.api != jetstream.DefaultAPIPrefix {
		b.publish = b.api + b.subjects
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	want := s.streamConfig(c)
	if err := streams.CheckServer(ctx, c.JetStream); err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", b.name, explain(want.Name, err))
	}
	stream, err := streams.Ensure(ctx, c.JetStream, want)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", b.name, explain(want.Name, err))
	}
	b.stream, b.config = stream, stream.CachedInfo().Config
	if err := b.adopt(s, want); err != nil {
		return nil, err
	}
	return b, nil
}

func apiPrefix(o jetstream.JetStreamOptions) string {
	switch {
	case o.Domain != "":
		return "$JS." + o.Domain + ".API."
	case o.APIPrefix == "":
		return jetstream.DefaultAPIPrefix
	case o.APIPrefix[len(o.APIPrefix)-1] != '.':
		return o.APIPrefix + "."
	}
	return o.APIPrefix
}
