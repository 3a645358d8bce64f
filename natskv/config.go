package natskv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Defaults of [Config].
const (
	DefaultPrefix   = "TOKENBUS"
	DefaultTimeout  = 5 * time.Second
	DefaultLeaseTTL = 30 * time.Second
)

// Config is what each constructor of this package takes. Buckets are created
// where they are missing. One that exists is used as it is; where its settings
// differ from what would have been created, that is logged.
type Config struct {
	// JetStream is the connection to use. It stays the caller's. Required.
	JetStream jetstream.JetStream
	// Prefix is the first part of the bucket names: <Prefix>_ACCOUNTS,
	// <Prefix>_CACHE, <Prefix>_LEASES and <Prefix>_JOURNAL. Default:
	// [DefaultPrefix].
	Prefix string
	// Replicas of buckets that are created. Default: three in a cluster that
	// has room for them, else one.
	Replicas int
	// Storage of buckets that are created. Default: files.
	Storage jetstream.StorageType
	// LeaseTTL is the time to live of leases. Default: [DefaultLeaseTTL]. At
	// least 100ms. A bucket of leases that exists keeps its own.
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
	} else if c.LeaseTTL < 100*time.Millisecond {
		problems = append(problems, fmt.Errorf("lease TTL %v: want at least 100ms", c.LeaseTTL))
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
	ttl    time.Duration // of the whole bucket; 0: none
	direct bool          // reads from any replica are allowed
	msgTTL bool          // a message may have a time to live of its own
}

// streamConfig returns the stream that the bucket is made of, as other clients
// of JetStream KV would create it.
func (s settings) streamConfig(c Config, replicas int) jetstream.StreamConfig {
	name := c.Prefix + s.suffix
	duplicates := 2 * time.Minute
	if s.ttl > 0 {
		duplicates = min(duplicates, s.ttl)
	}
	return jetstream.StreamConfig{
		Name: "KV_" + name, Description: s.about, Subjects: []string{"$KV." + name + ".>"},
		MaxMsgsPerSubject: 1, MaxMsgs: -1, MaxBytes: -1, MaxMsgSize: -1, MaxConsumers: -1,
		MaxAge: s.ttl, Duplicates: duplicates, Storage: c.Storage, Replicas: replicas,
		Discard: jetstream.DiscardNew, AllowRollup: true, DenyDelete: true,
		AllowDirect: s.direct, AllowMsgTTL: s.msgTTL,
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
	stream, err := c.JetStream.Stream(ctx, "KV_"+b.name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = create(ctx, c, s)
	}
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", b.name, explain(err))
	}
	b.stream, b.config = stream, stream.CachedInfo().Config
	if err := b.adopt(s.streamConfig(c, c.Replicas)); err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", b.name, err)
	}
	return b, nil
}

func create(ctx context.Context, c Config, s settings) (stream jetstream.Stream, err error) {
	replicas := []int{c.Replicas}
	if c.Replicas == 0 {
		replicas = []int{1}
		if c.JetStream.Conn().ConnectedClusterName() != "" {
			replicas = []int{3, 1}
		}
	}
	for i, r := range replicas {
		stream, err = c.JetStream.CreateStream(ctx, s.streamConfig(c, r))
		if !noRoomForReplicas(err) {
			if err == nil && i > 0 {
				c.Logger.Warn("bucket has one replica only: the cluster has no room for three", "bucket", c.Prefix+s.suffix)
			}
			break
		}
	}
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		// Another worker, with other settings, was faster.
		return c.JetStream.Stream(ctx, "KV_"+c.Prefix+s.suffix)
	}
	return stream, err
}

// adopt checks a bucket that is there against the one that would have been
// created. Only what makes it unusable is an error.
func (b *bucket) adopt(want jetstream.StreamConfig) error {
	got := b.config
	switch {
	case got.Mirror != nil:
		return errors.New("the bucket is a mirror, which takes no writes")
	case got.Sealed:
		return errors.New("the bucket is sealed")
	case len(got.Subjects) != 1 || got.Subjects[0] != want.Subjects[0]:
		return fmt.Errorf("stream %s has the subjects %q, want %q", got.Name, got.Subjects, want.Subjects)
	}
	differ := func(setting string, got, want any) {
		if got != want {
			b.log.Warn("bucket exists with another setting", "setting", setting, "is", got, "want", want)
		}
	}
	differ("ttl", got.MaxAge, want.MaxAge)
	differ("history", got.MaxMsgsPerSubject, want.MaxMsgsPerSubject)
	differ("max_msgs", got.MaxMsgs, want.MaxMsgs)
	differ("discard", got.Discard, want.Discard)
	differ("storage", got.Storage, want.Storage)
	differ("allow_direct", got.AllowDirect, want.AllowDirect)
	if want.Replicas != 0 {
		differ("replicas", got.Replicas, want.Replicas)
	}
	return nil
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
