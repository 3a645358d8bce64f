package rig

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

const redisSlots = 16384

// RedisCluster is a Redis Cluster.
type RedisCluster struct {
	Primaries []*RedisServer
	Replicas  []*RedisServer // of the first primary
}

// URL returns a URL that names all primaries, in the driver's form.
func (c *RedisCluster) URL() string {
	var addrs []string
	for _, s := range c.Primaries[1:] {
		addrs = append(addrs, "addr="+s.Addr)
	}
	return c.Primaries[0].URL + "?" + strings.Join(addrs, "&")
}

// StartRedisCluster starts a Cluster of three primaries, and of replicas of
// the first one. It returns when all nodes agree on who has which slots.
func StartRedisCluster(t testing.TB, replicas int) *RedisCluster {
	t.Helper()
	const primaries = 3
	var clients []*redis.Client
	var all []*RedisServer
	for range primaries + replicas {
		bus, err := freePort()
		check(t, err)
		// A node with a short patience counts others as gone when the machine
		// is busy.
		s := StartRedis(t, "--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(bus), "--cluster-node-timeout", "3000",
			"--cluster-replica-validity-factor", "0")
		client := redis.NewClient(&redis.Options{Addr: s.Addr})
		defer client.Close()
		clients, all = append(clients, client), append(all, s)
		host, port, err := net.SplitHostPort(s.Addr)
		check(t, err)
		check(t, clients[0].Do(context.Background(), "cluster", "meet", host, port, bus).Err())
	}
	for i, c := range clients[:primaries] {
		check(t, c.ClusterAddSlotsRange(context.Background(), redisSlots*i/primaries, redisSlots*(i+1)/primaries-1).Err())
	}
	agreed := func(extra ...string) func() error {
		want := append([]string{"cluster_state:ok", fmt.Sprintf("cluster_known_nodes:%d", len(all)), fmt.Sprintf("cluster_size:%d", primaries)}, extra...)
		return func() error {
			for _, c := range clients {
				info, err := c.ClusterInfo(context.Background()).Result()
				if err != nil {
					return err
				}
				for _, line := range want {
					if !strings.Contains(info, line+"\r\n") {
						return fmt.Errorf("not %s:\n%s", line, info)
					}
				}
			}
			return nil
		}
	}
	eventually(t, agreed())
	first, err := clients[0].Do(context.Background(), "cluster", "myid").Text()
	check(t, err)
	for _, c := range clients[primaries:] {
		check(t, c.ClusterReplicate(context.Background(), first).Err())
	}
	eventually(t, func() error {
		for _, c := range clients[primaries:] {
			info, err := c.Info(context.Background(), "replication").Result()
			if err != nil {
				return err
			}
			if !strings.Contains(info, "master_link_status:up") {
				return fmt.Errorf("no replica yet:\n%s", info)
			}
		}
		nodes, err := clients[1].ClusterNodes(context.Background()).Result()
		if err == nil && strings.Count(nodes, "slave") != replicas {
			err = fmt.Errorf("want %d replicas:\n%s", replicas, nodes)
		}
		return err
	})
	return &RedisCluster{all[:primaries], all[primaries:]}
}

// eventually waits until try returns nil.
func eventually(t testing.TB, try func() error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(startTimeout); ; <-tick.C {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}
