package rediskv_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/lease"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/rediskv"
)

// replicated starts a server and a replica of it that has caught up, by way of
// a proxy.
func replicated(t *testing.T) (primary, replica *rig.RedisServer, link *rig.Proxy) {
	t.Helper()
	primary = rig.StartRedis(t, "--repl-diskless-sync-delay", "0")
	link = rig.NewProxy(t, primary.Addr)
	replica = startReplica(t, link.Addr())
	server := raw(t, replica.URL)
	until(t, func() error {
		info := server.Info(t.Context(), "replication").Val()
		if !strings.Contains(info, "master_link_status:up") {
			return fmt.Errorf("it isn't a replica yet:\n%s", info)
		}
		return nil
	})
	return primary, replica, link
}

func startReplica(t *testing.T, of string) *rig.RedisServer {
	t.Helper()
	host, port, err := net.SplitHostPort(of)
	if err != nil {
		t.Fatal(err)
	}
	return rig.StartRedis(t, "--replicaof", host, port)
}

// A replica that becomes the primary doesn't know of the last leases and
// entries: another owner gets the lease, and the first is told.
func TestPromotedReplica(t *testing.T) {
	primary, replica, link := replicated(t)
	before := open(t, rediskv.Config{URL: primary.URL, Timeout: patience})
	after := open(t, rediskv.Config{URL: replica.URL, Timeout: patience})
	if ok, err := before.Cache().Put(t.Context(), key, entry(1)); !ok || err != nil {
		t.Fatal(ok, err)
	}
	until(t, func() error {
		if raw(t, replica.URL).Exists(t.Context(), "tokenbus:cache:{"+key.String()+"}").Val() == 0 {
			return errors.New("the entry doesn't come over")
		}
		return nil
	})
	link.Freeze() // what comes now, the replica never hears of
	token, err := before.Leases().Acquire(t.Context(), key.String(), "first")
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := before.Cache().Put(t.Context(), key, entry(2)); !ok || err != nil {
		t.Fatal(ok, err)
	}

	// While it is a replica, nothing that it is asked for has an answer.
	_, putErr := after.Cache().Put(t.Context(), key, entry(3))
	_, acquireErr := after.Leases().Acquire(t.Context(), key.String(), "second")
	_, renewErr := after.Leases().Renew(t.Context(), key.String(), token)
	releaseErr := after.Leases().Release(t.Context(), key.String(), token)
	_, readErr := after.Leases().Read(t.Context(), key.String())
	_, getErr := after.Cache().Get(t.Context(), key)
	for name, err := range map[string]error{
		"put": putErr, "acquire": acquireErr, "renew": renewErr, "release": releaseErr, "read": readErr, "get": getErr,
	} {
		if err == nil || rediskv.Final(err) || errors.Is(err, lease.ErrLost) || errors.Is(err, ledger.ErrNotFound) ||
			!strings.Contains(err.Error(), "is a replica: the --cache-url must name the primary") {
			t.Errorf("%s at a replica: %v", name, err)
		}
	}

	if err := raw(t, replica.URL).ReplicaOf(t.Context(), "no", "one").Err(); err != nil {
		t.Fatal(err)
	}
	second, err := after.Leases().Acquire(t.Context(), key.String(), "second")
	if err != nil {
		t.Fatalf("the second owner doesn't get the lease: %v", err)
	}
	if _, err := after.Leases().Renew(t.Context(), key.String(), token); !errors.Is(err, lease.ErrLost) {
		t.Errorf("renew of the first owner: got error %v, want %v", err, lease.ErrLost)
	}
	if err := after.Leases().Release(t.Context(), key.String(), token); !errors.Is(err, lease.ErrLost) {
		t.Errorf("release of the first owner: got error %v, want %v", err, lease.ErrLost)
	}
	if _, err := after.Leases().Renew(t.Context(), key.String(), second); err != nil {
		t.Errorf("renew of the second owner: %v", err)
	}
	if e, err := after.Cache().Get(t.Context(), key); err != nil || e.Rev != 1 {
		t.Errorf("entry of rev %d, %v, want the one that came over", e.Rev, err)
	}
	if ok, err := after.Cache().Put(t.Context(), key, entry(2)); !ok || err != nil {
		t.Errorf("the newest entry put once more: %v, %v", ok, err)
	}
}

// logBuffer is a log that can be read while it is written.
type logBuffer struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// A client of Sentinels goes on with the new master by itself. The lease that
// the old one had is lost, and its holder hears of it.
func TestSentinelFailover(t *testing.T) {
	primary, replica, link := replicated(t)
	sentinel := rig.RedisSentinel(t, "main", primary)
	control := redis.NewSentinelClient(&redis.Options{Addr: sentinel.Addr})
	t.Cleanup(func() { _ = control.Close() })
	until(t, func() error { // it has found the replica, and it may be promoted
		replicas, err := control.Replicas(t.Context(), "main").Result()
		if err == nil && (len(replicas) != 1 || replicas[0]["master-link-status"] != "ok") {
			err = fmt.Errorf("replicas: %v", replicas)
		}
		return err
	})
	c := open(t, rediskv.Config{URL: sentinel.URL + "?master_name=main", LeaseTTL: 6 * time.Second, Timeout: time.Second})
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	link.Freeze() // what comes now, the replica never hears of
	var logged logBuffer
	locker, err := lease.New(lease.Config{Backend: c.Leases(), Owner: "first", Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	if err != nil {
		t.Fatal(err)
	}
	held, err := locker.Acquire(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release(t.Context())
	if ok, err := c.Cache().Put(t.Context(), key, entry(1)); !ok || err != nil {
		t.Fatal(ok, err)
	}

	until(t, func() error { return control.Failover(t.Context(), "main").Err() })
	_, replicaPort, _ := net.SplitHostPort(replica.Addr)
	until(t, func() error {
		addr, err := control.GetMasterAddrByName(t.Context(), "main").Result()
		if err == nil && addr[1] != replicaPort {
			err = fmt.Errorf("the master is at %v", addr)
		}
		return err
	})
	until(t, func() error { // the same client, at the new master
		_, err := c.Cache().Get(t.Context(), key)
		if !errors.Is(err, ledger.ErrNotFound) {
			return fmt.Errorf("get: %v, want the emptiness of the new master", err)
		}
		return nil
	})
	until(t, func() error { _, err := c.Leases().Acquire(t.Context(), key.String(), "second"); return err })
	until(t, func() error {
		if held.Trusted() || !strings.Contains(logged.String(), "lease lost") {
			return fmt.Errorf("trusted: %v, log: %s", held.Trusted(), logged.String())
		}
		return nil
	})
	if token, err := c.Leases().Read(t.Context(), key.String()); err != nil || token.Owner != "second" {
		t.Errorf("the lease is that of %q, %v", token.Owner, err)
	}
	if err := c.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}
