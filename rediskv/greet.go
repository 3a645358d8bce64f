package rediskv

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// The oldest Redis that will do: the first with users and with HELLO, by which
// a user of few rights learns the version.
const minMajor, minVersion = 6, "6.0"

// errReplica: a replica answers reads from what it has, which may be old, and
// scripts as long as they write nothing. A failover may make it the primary.
var errReplica = errors.New("the server is a replica")

// greet asks the server at the other end of a new connection what it is, and
// lets the connection go if it won't do. Some don't tell, which is no error.
func (t *target) greet(ctx context.Context, conn *redis.Conn) error {
	hello, err := conn.Do(ctx, "hello").Result()
	if err != nil && !isAnswer(err) {
		return err
	}
	about := pairs(hello)
	if about["version"] == "" { // Redis 5 has no HELLO, or somebody forbids it
		info, err := conn.Info(ctx, "server").Result()
		if err != nil && !isAnswer(err) {
			return err
		}
		about["version"] = infoField(info, "redis_version")
	}
	return t.judge(about["version"], about["mode"], about["role"])
}

// judge decides by what a server says of itself; "": it doesn't tell.
func (t *target) judge(version, mode, role string) error {
	major, err := strconv.Atoi(version[:max(strings.Index(version, "."), 0)])
	switch {
	case err == nil && major < minMajor:
		return refuse(ErrUnusable, "it is Redis "+version+", and "+minVersion+" or later is needed: upgrade it, or name another in the --cache-url")
	case mode == "sentinel" && t.sentinel == nil:
		return refuse(ErrUnusable, "it is a Sentinel: add master_name= to the --cache-url")
	case mode == "cluster" && t.cluster == nil:
		return refuse(ErrUnusable, nodeOfCluster)
	case role == "replica" && t.cluster == nil: // a Cluster's redirects by itself
		return refuse(errReplica, namePrimary)
	}
	return nil
}

// refuse returns an error that the driver, which unwraps those of new
// connections, leaves as it is.
func refuse(kind error, why string) error {
	return &explained{causes: []error{kind, errors.New(why)}}
}

// pairs returns the texts in a map, or in the list that stands for one in
// RESP2.
func pairs(reply any) map[string]string {
	texts := make(map[string]string)
	add := func(key, value any) {
		k, isText := key.(string)
		if v, ok := value.(string); ok && isText {
			texts[k] = v
		}
	}
	switch reply := reply.(type) {
	case map[any]any:
		for k, v := range reply {
			add(k, v)
		}
	case []any:
		for i := 0; i+1 < len(reply); i += 2 {
			add(reply[i], reply[i+1])
		}
	}
	return texts
}

// infoField returns a field of the answer to INFO.
func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
