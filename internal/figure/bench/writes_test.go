package bench

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/connstring"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/mongostore"
)

// writes makes the writes of one refresh, each after the other as it is there:
// the lease, the rotation's record, the credentials, the shared cache's entry,
// event, bump, the announcement's end, and the lease given up.
type writes func(ctx context.Context, key string) error

// bareJetStream is what a refresh writes where JetStream has everything.
func (f *fleet) bareJetStream(of account.Key, _ []account.Key) writes {
	js := f.bareConn()
	document := f.bareStream(js, "KV_TOKENBUS_ACCOUNTS", "$KV.TOKENBUS_ACCOUNTS."+of.String())
	lease := f.bareStream(js, "KV_TOKENBUS_LEASES", "$KV.TOKENBUS_LEASES."+of.String()) // given up
	entry := f.bareStream(js, "KV_TOKENBUS_CACHE", "$KV.TOKENBUS_CACHE."+of.String())
	event, bump := f.bareNews(js, of)
	taken := lease
	taken.like = &nats.Msg{Data: make([]byte, 40)}
	return inOrder(taken.write, document.write, document.write, entry.write, event.write, bump.write, document.write, lease.write)
}

// bareDatabases is what a refresh writes where MongoDB has the accounts and
// Redis what is shared: to a database and to keys of its own.
func (f *fleet) bareDatabases(of account.Key, accounts []account.Key) writes {
	b, ctx := f.b, f.b.Context()
	b.Helper()
	url := rig.Mongo(b)
	store, err := mongostore.Open(ctx, mongostore.Config{URL: url})
	check(b, err)
	check(b, store.EnsureIndexes(ctx)) // each update is one of them too
	check(b, store.Close(ctx))
	var document bson.M
	check(b, mongoAccounts(b, f.cfg.mongo).FindOne(ctx, bson.M{"_id": of.String()}).Decode(&document))
	delete(document, "_id")
	collection := mongoAccounts(b, url)
	update := func(change bson.M) func(ctx context.Context, key string) error {
		return func(ctx context.Context, key string) error {
			// The stand-in looks at every document as soon as there is a second
			// condition, which a compare-and-set has: its price is the server's.
			r, err := collection.UpdateOne(ctx, bson.M{"_id": key, "status": document["status"]}, change)
			if err == nil && r.MatchedCount != 1 {
				err = fmt.Errorf("%d documents of %s", r.MatchedCount, key)
			}
			return err
		}
	}
	for _, key := range accounts {
		document["_id"] = key.String()
		_, err := collection.InsertOne(ctx, document)
		check(b, err)
	}
	delete(document, "_id")
	at := time.Now()
	begin := update(bson.M{"$set": bson.M{"rotation": bson.M{"record": strings.Repeat("x", 250)}, "refresh_at": at, "updated_at": at, "schema_version": int64(1)}})
	document["announce_pending"], document["reason"] = true, "expiry"
	commit := update(bson.M{"$set": document, "$unset": bson.M{"rotation": ""}})
	end := update(bson.M{"$set": bson.M{"updated_at": at, "schema_version": int64(1)}, "$unset": bson.M{"announce_pending": "", "reason": ""}})

	client := bareRedis(b, f.cfg.redis)
	entry, err := client.HGetAll(ctx, "tokenbus:cache:{"+of.String()+"}").Result()
	check(b, err)
	if len(entry) == 0 {
		b.Fatalf("Redis has no entry of %s", of)
	}
	lease := func(ctx context.Context, key string) error {
		return client.SetArgs(ctx, "bare:lease:"+key, strings.Repeat("x", 40), redis.SetArgs{TTL: 30 * time.Second, Mode: "NX"}).Err()
	}
	release := func(ctx context.Context, key string) error { return client.Del(ctx, "bare:lease:"+key).Err() }
	share := func(ctx context.Context, key string) error {
		_, err := client.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.HSet(ctx, "bare:cache:"+key, entry)
			return p.PExpire(ctx, "bare:cache:"+key, time.Hour).Err()
		})
		return err
	}
	event, bump := f.bareNews(f.bareConn(), of)
	return inOrder(lease, begin, commit, share, event.write, bump.write, end, release)
}

func inOrder(list ...func(ctx context.Context, key string) error) writes {
	return func(ctx context.Context, key string) error {
		for _, write := range list {
			if err := write(ctx, key); err != nil {
				return err
			}
		}
		return nil
	}
}

func (f *fleet) bareConn() jetstream.JetStream {
	f.b.Helper()
	js, err := jetstream.New(f.connect())
	check(f.b, err)
	return js
}

func (f *fleet) bareNews(js jetstream.JetStream, of account.Key) (event, bump bareStream) {
	f.b.Helper()
	return f.bareStream(js, events.StreamEvents, f.subjects.Refreshed(of)), f.bareStream(js, events.StreamBumps, f.subjects.Bump(of))
}

// bareStream is a stream beside one of the fleet's, with the same settings, and
// what to write there.
type bareStream struct {
	js      jetstream.JetStream
	subject string // and an account's key
	like    *nats.Msg
	n       *atomic.Int64 // writes so far
}

// bareStream makes a stream like the named one, for messages like the last of
// the subject.
func (f *fleet) bareStream(js jetstream.JetStream, name, subject string) bareStream {
	b, ctx := f.b, f.b.Context()
	b.Helper()
	theirs, err := js.Stream(ctx, name)
	check(b, err)
	m, err := theirs.GetLastMsgForSubject(ctx, subject)
	check(b, err)
	config := theirs.CachedInfo().Config
	if want := max(f.cfg.servers, 1); config.Replicas != want {
		b.Fatalf("%s has %d replicas, want %d", name, config.Replicas, want)
	}
	config.Name = "KV_BARE_" + name
	s := bareStream{js, "$KV.BARE_" + name + ".", &nats.Msg{Header: m.Header, Data: m.Data}, new(atomic.Int64)}
	config.Subjects = []string{s.subject + ">"}
	for _, condition := range []string{jetstream.ExpectedLastSubjSeqHeader, jetstream.ExpectedStreamHeader} {
		s.like.Header.Del(condition)
	}
	_, err = js.CreateStream(ctx, config)
	check(b, err)
	if f.cluster != nil {
		leads := f.cluster.Leader(name)
		f.cluster.MoveLeader(config.Name, leads) // writes go as far as those of a refresh
	}
	return s
}

func (s bareStream) write(ctx context.Context, key string) error {
	m := &nats.Msg{Subject: s.subject + key, Header: nats.Header{}, Data: s.like.Data}
	maps.Copy(m.Header, s.like.Header)
	if m.Header.Get(jetstream.MsgIDHeader) != "" { // or it is the same event
		m.Header.Set(jetstream.MsgIDHeader, fmt.Sprintf("%s-%08d", key, s.n.Add(1)))
	}
	_, err := s.js.PublishMsg(ctx, m)
	return err
}

// mongoAccounts is the collection of accounts, with writes as durable as a
// worker's.
func mongoAccounts(b *testing.B, url string) *mongo.Collection {
	b.Helper()
	parsed, err := connstring.Parse(url)
	check(b, err)
	client, err := mongo.Connect(options.Client().ApplyURI(url).SetWriteConcern(&writeconcern.WriteConcern{W: "majority", Journal: new(true)}))
	check(b, err)
	b.Cleanup(func() { _ = client.Disconnect(context.Background()) })
	return client.Database(parsed.Database).Collection("accounts")
}
