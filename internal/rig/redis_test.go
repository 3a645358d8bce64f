package rig_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/tokenbus/tokenbus/internal/rig"
)

func TestRedisClusterHasAllSlots(t *testing.T) {
	cluster := rig.StartRedisCluster(t, 1)
	opts, err := redis.ParseClusterURL(cluster.URL())
	if err != nil {
		t.Fatal(err)
	}
	c := redis.NewClusterClient(opts)
	defer c.Close()
	for i := range 50 {
		if err := c.Set(t.Context(), fmt.Sprint("key", i), i, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if len(cluster.Replicas) != 1 {
		t.Errorf("%d replicas, want 1", len(cluster.Replicas))
	}
}

func TestRedisSentinelKnowsThePrimary(t *testing.T) {
	primary := rig.StartRedis(t)
	c := redis.NewSentinelClient(&redis.Options{Addr: rig.RedisSentinel(t, "main", primary).Addr})
	defer c.Close()
	addr, err := c.GetMasterAddrByName(t.Context(), "main").Result()
	if err != nil || strings.Join(addr, ":") != primary.Addr {
		t.Errorf("got %v, %v, want %s", addr, err, primary.Addr)
	}
}
