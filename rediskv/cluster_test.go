package rediskv_test

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/lease"
	"github.com/tokenbus/tokenbus/lease/leasetest"
	"github.com/tokenbus/tokenbus/rediskv"
	"github.com/tokenbus/tokenbus/refresh"
)

func TestCluster(t *testing.T) {
	cluster := rig.StartRedisCluster(t, 0)
	t.Run("Cache", func(t *testing.T) { testCache(t, cluster.URL()) })
	t.Run("Leases", func(t *testing.T) { testLeases(t, cluster.URL()) })
	t.Run("OneAddress", func(t *testing.T) {
		first := cluster.Primaries[0]
		if err := open(t, rediskv.Config{URL: first.URL + "?addr=" + first.Addr, Timeout: patience}).Ping(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("ScriptsForgotten", func(t *testing.T) { testScriptsForgotten(t, cluster) })
	t.Run("Users", func(t *testing.T) { testClusterUsers(t, cluster) })
	t.Run("MovingSlot", func(t *testing.T) { testMovingSlot(t, cluster) })
	t.Run("LeasesInAMovingSlot", func(t *testing.T) { testLeasesInAMovingSlot(t, cluster) })
	t.Run("LostReply", func(t *testing.T) { testClusterLostReply(t, cluster) }) // last: it leaves a proxy behind
}

func testScriptsForgotten(t *testing.T, cluster *rig.RedisCluster) {
	c := open(t, rediskv.Config{URL: cluster.URL(), Prefix: "forgotten", Timeout: patience})
	for i := range 3 {
		for _, s := range cluster.Primaries {
			if err := raw(t, s.URL).ScriptFlush(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
		}
		for id := range 10 { // in all nodes
			k := mustKey(fmt.Sprint("a", id))
			if ok, err := c.Cache().Put(t.Context(), k, entry(account.Rev(i+1))); !ok || err != nil {
				t.Errorf("put: %v, %v", ok, err)
			}
		}
	}
}

func testClusterUsers(t *testing.T, cluster *rig.RedisCluster) {
	for _, s := range cluster.Primaries {
		for user, more := range map[string]string{"worker": "+cluster|slots", "blind": "-cluster"} {
			args := []any{"acl", "setuser", user, "on", ">hunter2", "~tokenbus:*", "+@read", "+@write", "+@scripting", "+@connection", more}
			if err := raw(t, s.URL).Do(t.Context(), args...).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	url := func(user string) string { return strings.Replace(cluster.URL(), "://", "://"+user+"@", 1) }
	if err := open(t, rediskv.Config{URL: url("worker:hunter2"), Timeout: patience}).Ping(t.Context()); err != nil {
		t.Error(err)
	}
	for user, want := range map[string]string{
		"worker:hunter3": "correct user and password in the --cache-url",
		"blind:hunter2":  "~tokenbus:* +cluster|slots",
	} {
		err := open(t, rediskv.Config{URL: url(user), Timeout: patience}).Ping(t.Context())
		if !errors.Is(err, rediskv.ErrCredentials) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter") {
			t.Errorf("%s: got error %v, want %q", user, err, want)
		}
	}
}

// slotMover moves the slot of an account between two nodes.
type slotMover struct {
	slot     int64
	from, to *redis.Client // from has it
	all      []*redis.Client
}

func newSlotMover(t *testing.T, cluster *rig.RedisCluster, account string) *slotMover {
	t.Helper()
	m := &slotMover{}
	for _, s := range cluster.Primaries {
		m.all = append(m.all, raw(t, s.URL))
	}
	m.slot = m.all[0].ClusterKeySlot(t.Context(), "{"+account+"}").Val()
	for _, c := range m.all {
		// A node that hasn't the slot redirects.
		if err := c.Exists(t.Context(), "{"+account+"}").Err(); err == nil {
			m.from = c
		} else if _, moved := redis.IsMovedError(err); moved {
			m.to = c
		} else {
			t.Fatal(err)
		}
	}
	return m
}

func (m *slotMover) do(t *testing.T, c *redis.Client, args ...any) {
	if err := c.Do(t.Context(), args...).Err(); err != nil && t.Context().Err() == nil {
		t.Errorf("%v: %v", args, err)
	}
}

func id(t *testing.T, c *redis.Client) string {
	id, err := c.Do(t.Context(), "cluster", "myid").Text()
	if err != nil && t.Context().Err() == nil {
		t.Error(err)
	}
	return id
}

// begin marks the slot as one that moves: keys that aren't there are asked for
// at the other node.
func (m *slotMover) begin(t *testing.T) {
	m.do(t, m.to, "cluster", "setslot", m.slot, "importing", id(t, m.from))
	m.do(t, m.from, "cluster", "setslot", m.slot, "migrating", id(t, m.to))
}

// move moves the keys.
func (m *slotMover) move(t *testing.T) {
	host, port, _ := net.SplitHostPort(m.to.Options().Addr)
	for _, key := range m.from.ClusterGetKeysInSlot(t.Context(), int(m.slot), 1000).Val() {
		m.do(t, m.from, "migrate", host, port, key, 0, 30000)
	}
}

// end gives the slot to the other node, and returns when all nodes have heard
// the new owner's configuration epoch. A move back before that takes no higher
// one, and the old owner's gossip of a moment ago takes the slot from it again,
// with its keys.
func (m *slotMover) end(t *testing.T) {
	owner := id(t, m.to)
	m.do(t, m.to, "cluster", "setslot", m.slot, "node", owner)
	m.do(t, m.from, "cluster", "setslot", m.slot, "node", owner)
	for _, c := range m.all {
		if c != m.to && c != m.from {
			m.do(t, c, "cluster", "setslot", m.slot, "node", owner)
		}
	}
	epoch := epochOf(t, m.to, owner)
	until(t, func() error {
		for _, c := range m.all {
			if heard := epochOf(t, c, owner); heard != epoch {
				return fmt.Errorf("%s has heard of epoch %s of %s, want %s", c.Options().Addr, heard, owner, epoch)
			}
		}
		return nil
	})
	m.from, m.to = m.to, m.from
}

// epochOf is the configuration epoch of a node, as c knows it.
func epochOf(t *testing.T, c *redis.Client, id string) string {
	nodes, err := c.ClusterNodes(t.Context()).Result()
	if err != nil && t.Context().Err() == nil {
		t.Error(err)
	}
	for line := range strings.Lines(nodes) {
		if fields := strings.Fields(line); fields[0] == id {
			return fields[6]
		}
	}
	return ""
}

// Order and exclusion hold in every phase of a slot's move.
func testMovingSlot(t *testing.T, cluster *rig.RedisCluster) {
	c := open(t, rediskv.Config{URL: cluster.URL(), Prefix: "moving", Timeout: patience})
	m := newSlotMover(t, cluster, key.String())
	rev := account.Rev(10)
	expect := func(phase string) {
		t.Helper()
		for _, step := range []struct {
			rev    account.Rev
			stored bool
		}{{rev + 1, true}, {rev, false}, {rev + 1, false}, {rev + 2, true}} {
			if ok, err := c.Cache().Put(t.Context(), key, entry(step.rev)); ok != step.stored || err != nil {
				t.Errorf("%s: put of rev %d: %v, %v, want %v", phase, step.rev, ok, err, step.stored)
			}
		}
		rev += 2
		if e, err := c.Cache().Get(t.Context(), key); err != nil || e.Rev != rev {
			t.Errorf("%s: rev %d, %v, want %d", phase, e.Rev, err, rev)
		}
		if err := c.Ping(t.Context()); err != nil {
			t.Errorf("%s: %v", phase, err)
		}
	}
	leases := c.Leases()
	m.begin(t)
	expect("nothing there yet, so at the new node")
	m.end(t)
	expect("moved")
	token, err := leases.Acquire(t.Context(), key.String(), "owner")
	if err != nil {
		t.Fatal(err)
	}
	m.begin(t)
	expect("at the old node")
	if _, err := leases.Acquire(t.Context(), key.String(), "other"); !errors.Is(err, refresh.ErrHeld) {
		t.Errorf("acquire while it is moving: %v", err)
	}
	m.move(t)
	expect("the key is at the new node, the slot at the old one")
	if _, err := leases.Acquire(t.Context(), key.String(), "other"); !errors.Is(err, refresh.ErrHeld) {
		t.Errorf("acquire after it was moved: %v", err)
	}
	for _, node := range m.all { // the new node learns the scripts behind ASKING
		node.ScriptFlush(t.Context())
	}
	if token, err = leases.Renew(t.Context(), key.String(), token); err != nil {
		t.Errorf("renew after it was moved: %v", err)
	}
	m.end(t)
	expect("moved back")
	if err := leases.Release(t.Context(), key.String(), token); err != nil {
		t.Errorf("release after the move: %v", err)
	}
}

func testLeasesInAMovingSlot(t *testing.T, cluster *rig.RedisCluster) {
	m := newSlotMover(t, cluster, "openai.a") // the suite's account
	stop := make(chan struct{})
	moves := 0
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for ; ; moves++ {
			m.begin(t)
			m.move(t)
			m.end(t)
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	})
	t.Run("Suite", func(t *testing.T) {
		leasetest.Run(t, func(t *testing.T) lease.Backend {
			return open(t, rediskv.Config{URL: cluster.URL(), Prefix: "p" + strings.ToLower(t.Name()[strings.LastIndex(t.Name(), "/")+1:]),
				LeaseTTL: 2 * time.Second, Timeout: patience}).Leases()
		})
	})
	close(stop)
	wg.Wait()
	t.Log(moves, "moves")
}

// The Cluster's client follows redirections, but repeats no call whose reply
// is lost.
func testClusterLostReply(t *testing.T, cluster *rig.RedisCluster) {
	m := newSlotMover(t, cluster, key.String())
	proxy := rig.NewProxy(t, m.from.Options().Addr)
	_, port, _ := net.SplitHostPort(proxy.Addr())
	m.do(t, m.from, "config", "set", "cluster-announce-port", port) // clients are sent to the proxy
	until(t, func() error {
		for _, node := range m.all {
			if slots := fmt.Sprint(node.Do(t.Context(), "cluster", "nodes").Val()); !strings.Contains(slots, proxy.Addr()) {
				return fmt.Errorf("%s is not in %s", proxy.Addr(), slots)
			}
		}
		return nil
	})
	c := open(t, rediskv.Config{URL: cluster.URL(), Prefix: "lost", Timeout: patience})
	testLostReplies(t, c, proxy)
}

// A Cluster that replaces a node is found again by the client that was there
// before.
func TestClusterFailover(t *testing.T) {
	cluster := rig.StartRedisCluster(t, 1)
	c := open(t, rediskv.Config{URL: cluster.URL(), Timeout: time.Second})
	k := keyAt(t, cluster.Primaries[0])
	until(t, func() error { _, err := c.Cache().Put(t.Context(), k, entry(1)); return err })
	token, err := c.Leases().Acquire(t.Context(), k.String(), "first")
	if err != nil {
		t.Fatal(err)
	}
	cluster.Primaries[0].Stop()
	if err := c.Ping(t.Context()); err == nil || rediskv.Final(err) {
		t.Errorf("ping of a Cluster that lacks a node: %v", err)
	}
	until(t, func() error { _, err := c.Cache().Put(t.Context(), k, entry(2)); return err })
	if e, err := c.Cache().Get(t.Context(), k); err != nil || e.Rev != 2 {
		t.Errorf("rev %d, %v, want 2", e.Rev, err)
	}
	// Whether the lease came over is chance; exclusion is not.
	_, renewErr := c.Leases().Renew(t.Context(), k.String(), token)
	_, acquireErr := c.Leases().Acquire(t.Context(), k.String(), "second")
	if renewErr == nil == (acquireErr == nil) {
		t.Errorf("two have the lease, or none: renew %v, acquire %v", renewErr, acquireErr)
	}
	until(t, func() error { return c.Ping(t.Context()) })
}

// keyAt returns a key that is kept at the node.
func keyAt(t *testing.T, s *rig.RedisServer) account.Key {
	t.Helper()
	node := raw(t, s.URL)
	for i := range 1000 {
		k := mustKey(fmt.Sprint("a", i))
		if node.Exists(t.Context(), "{"+k.String()+"}").Err() == nil {
			return k
		}
	}
	t.Fatal("no key is kept at the node")
	return account.Key{}
}

func mustKey(id string) account.Key {
	k, err := account.NewKey("openai", id)
	if err != nil {
		panic(err)
	}
	return k
}

// until waits until try returns nil.
func until(t *testing.T, try func() error) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); ; <-tick.C {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}
