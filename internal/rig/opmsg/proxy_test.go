package opmsg_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.uber.org/goleak"

	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/internal/rig/opmsg"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// connect returns a collection behind a proxy.
func connect(t *testing.T, cfg opmsg.Config) (*opmsg.Proxy, *mongo.Collection) {
	t.Helper()
	u, err := url.Parse(rig.Mongo(t))
	if err != nil {
		t.Fatal(err)
	}
	p := opmsg.New(t, u.Host, cfg)
	client, err := mongo.Connect(options.Client().ApplyURI("mongodb://" + p.Addr()).SetTimeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Disconnect(context.Background()) })
	return p, client.Database(strings.TrimPrefix(u.Path, "/")).Collection("c")
}

func insert(t *testing.T, c *mongo.Collection, id string) error {
	_, err := c.InsertOne(t.Context(), bson.D{{Key: "_id", Value: id}})
	return err
}

func exists(t *testing.T, c *mongo.Collection, id string) bool {
	t.Helper()
	n, err := c.CountDocuments(t.Context(), bson.D{{Key: "_id", Value: id}})
	if err != nil {
		t.Fatal(err)
	}
	return n == 1
}

// Each fault, before and after the server has carried the command out.
func TestFaults(t *testing.T) {
	for _, f := range []struct {
		name  string
		fault opmsg.Fault
		code  int // 0: the connection is closed
	}{
		{"refused", opmsg.Fault{Answer: opmsg.Refuse(189, "PrimarySteppedDown")}, 189},
		{"done, and refused", opmsg.Fault{Done: true, Answer: opmsg.Refuse(189, "PrimarySteppedDown")}, 189},
		{"done, and unconfirmed", opmsg.Fault{Done: true, Answer: opmsg.Unconfirmed(64, "WriteConcernTimeout")}, 64},
		{"closed", opmsg.Fault{}, 0},
		{"done, and closed", opmsg.Fault{Done: true}, 0},
	} {
		t.Run(f.name, func(t *testing.T) {
			p, c := connect(t, opmsg.Config{})
			p.Next(1, "update insert", f.fault)
			err := insert(t, c, "a")
			server, fromServer := errors.AsType[mongo.ServerError](err)
			if err == nil || f.code != 0 && !server.HasErrorCode(f.code) || f.code == 0 && fromServer && !mongo.IsNetworkError(err) {
				t.Errorf("got error %v, want code %d", err, f.code)
			}
			if exists(t, c, "a") != f.fault.Done {
				t.Errorf("the document exists: %v, want %v", !f.fault.Done, f.fault.Done)
			}
			if err := insert(t, c, "b"); err != nil {
				t.Errorf("the next one: %v", err)
			}
		})
	}
}

// As a replica set the server gets repeated writes and does them once.
func TestReplicaSet(t *testing.T) {
	p, c := connect(t, opmsg.Config{ReplicaSet: "rs0"})
	for i, f := range []opmsg.Fault{
		{},
		{Done: true},
		{Answer: opmsg.Refuse(10107, "NotWritablePrimary", opmsg.RetryableWrite)},
		{Done: true, Answer: opmsg.Refuse(11602, "InterruptedDueToReplStateChange", opmsg.RetryableWrite)},
		{Done: true, Answer: opmsg.Unconfirmed(91, "ShutdownInProgress", opmsg.RetryableWrite)},
	} {
		before := p.Seen("insert")
		p.Next(2, "insert", f)
		if err := insert(t, c, fmt.Sprint(i)); err != nil {
			t.Errorf("fault %d: %v", i, err)
		}
		if n := p.Seen("insert") - before; n != 3 {
			t.Errorf("fault %d: %d attempts, want 3", i, n)
		}
	}
	for range 2 { // not what somebody else has written
		if err := insert(t, c, "twice"); err != nil && !mongo.IsDuplicateKeyError(err) {
			t.Error(err)
		}
	}
	if err := insert(t, c, "twice"); !mongo.IsDuplicateKeyError(err) {
		t.Errorf("got error %v, want that of a duplicate", err)
	}
}

func TestEach(t *testing.T) {
	p, c := connect(t, opmsg.Config{})
	p.Each(func(cmd opmsg.Command) *opmsg.Fault {
		if cmd.Name == "insert" && cmd.Collection == "c" && cmd.Database == c.Database().Name() {
			return &opmsg.Fault{Answer: opmsg.Refuse(13, "Unauthorized")}
		}
		return nil
	})
	err := insert(t, c, "a")
	if server, ok := errors.AsType[mongo.ServerError](err); !ok || !server.HasErrorCode(13) {
		t.Errorf("got error %v, want code 13", err)
	}
	p.Each(nil)
	if err := insert(t, c, "a"); err != nil {
		t.Error(err)
	}
}
