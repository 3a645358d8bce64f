package rig_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"
	"go.uber.org/goleak"

	"github.com/tokenbus/tokenbus/internal/rig"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNATSHasJetStream(t *testing.T) {
	js, err := jetstream.New(rig.Connect(t, rig.NATS(t)))
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "rig"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Create(t.Context(), "key", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Create(t.Context(), "key", nil); !errors.Is(err, jetstream.ErrKeyExists) {
		t.Errorf("second create: %v, want %v", err, jetstream.ErrKeyExists)
	}
}

// connectRedis starts a redis-server with the arguments.
func connectRedis(t *testing.T, args ...string) *redis.Client {
	t.Helper()
	opts, err := redis.ParseURL(rig.Redis(t, args...))
	if err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(opts)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestRedisStartsWithItsArguments(t *testing.T) {
	c := connectRedis(t, "--maxmemory", "5mb")
	got, err := c.ConfigGet(t.Context(), "maxmemory").Result()
	if err != nil || got["maxmemory"] != "5242880" {
		t.Errorf("maxmemory: %v, %v", got, err)
	}
}

// connectMongo returns the collection "c" of a new database.
func connectMongo(t *testing.T) *mongo.Collection {
	t.Helper()
	uri := rig.Mongo(t)
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	client, err := mongo.Connect(options.Client().ApplyURI(uri).
		SetWriteConcern(&writeconcern.WriteConcern{W: "majority", Journal: new(true)}).
		SetReadConcern(readconcern.Majority()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Disconnect(context.Background()) })
	if err := client.Ping(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return client.Database(strings.TrimPrefix(u.Path, "/")).Collection("c")
}

// A server is not stopped by what it logs, however much that is.
func TestRedisMayLogMuch(t *testing.T) {
	c := connectRedis(t, "--enable-debug-command", "yes")
	for range 300 { // more than a pipe holds
		if err := c.Do(t.Context(), "debug", "log", strings.Repeat("x", 1000)).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMongoComparesAndSetsAtomically(t *testing.T) {
	c := connectMongo(t)
	if _, err := c.InsertOne(t.Context(), bson.M{"_id": "a", "version": 1}); err != nil {
		t.Fatal(err)
	}
	var winners atomic.Int32
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			res, err := c.UpdateOne(t.Context(), bson.M{"_id": "a", "version": 1}, bson.M{"$inc": bson.M{"version": 1}})
			if err != nil {
				t.Error(err)
				return
			}
			winners.Add(int32(res.ModifiedCount))
		})
	}
	wg.Wait()
	if winners.Load() != 1 {
		t.Errorf("%d of 32 won, want one", winners.Load())
	}
}

func TestMongoDatabaseIsNew(t *testing.T) {
	for range 2 {
		runtime.GC() // nothing that keeps the shared server may be garbage
		c := connectMongo(t)
		if n, err := c.CountDocuments(t.Context(), bson.M{}); n != 0 || err != nil {
			t.Errorf("%d documents, %v", n, err)
		}
		if _, err := c.InsertOne(t.Context(), bson.M{}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMongoFailsOnDemand(t *testing.T) {
	c := connectMongo(t)
	fail := func(data bson.D) {
		t.Helper()
		data = append(data, bson.E{Key: "failCommands", Value: bson.A{"insert"}},
			bson.E{Key: "namespace", Value: c.Database().Name() + ".c"})
		command := bson.D{{Key: "configureFailPoint", Value: "failCommand"}, {Key: "mode", Value: bson.M{"times": 1}}, {Key: "data", Value: data}}
		if err := c.Database().Client().Database("admin").RunCommand(t.Context(), command).Err(); err != nil {
			t.Fatal(err)
		}
	}
	insert := func() error { _, err := c.InsertOne(t.Context(), bson.M{}); return err }
	count := func(want int64) {
		t.Helper()
		if n, err := c.CountDocuments(t.Context(), bson.M{}); n != want || err != nil {
			t.Errorf("%d documents, %v, want %d", n, err, want)
		}
	}

	fail(bson.D{{Key: "errorCode", Value: 91}})
	if err := insert(); !hasCode(err, 91) {
		t.Errorf("insert: %v, want code 91", err)
	}
	count(0)
	fail(bson.D{{Key: "closeConnection", Value: true}})
	if err := insert(); !mongo.IsNetworkError(err) {
		t.Errorf("insert: %v, want a network error", err)
	}
	fail(bson.D{{Key: "writeConcernError", Value: bson.D{{Key: "code", Value: 64}, {Key: "errmsg", Value: "waiting timed out"}}}})
	if err := insert(); !hasCode(err, 64) {
		t.Errorf("insert: %v, want code 64", err)
	}
	count(1)
	if err := insert(); err != nil {
		t.Errorf("insert after the failures: %v", err)
	}
	count(2)
}

func hasCode(err error, code int) bool {
	e, ok := errors.AsType[mongo.ServerError](err)
	return ok && e.HasErrorCode(code)
}

func TestMongoRefusesLogins(t *testing.T) {
	uri := strings.Replace(rig.Mongo(t), "://", "://user:password@", 1)
	client, err := mongo.Connect(options.Client().ApplyURI(uri))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Disconnect(context.Background()) }()
	if err := client.Ping(t.Context(), nil); !hasCode(err, 18) {
		t.Errorf("ping: %v, want code 18", err)
	}
}

type tokens struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	ExpiresIn    int    `json:"expires_in"`
	Error        string `json:"error"`
}

func exchange(t *testing.T, s *rig.OIDCServer, client, refreshToken string) tokens {
	t.Helper()
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refreshToken}}
	if client != rig.OIDCBasic {
		form.Set("client_id", client)
	}
	if client == rig.OIDCPost {
		form.Set("client_secret", rig.OIDCSecret)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.TokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if client == rig.OIDCBasic {
		req.SetBasicAuth(client, rig.OIDCSecret)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var out tokens
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestOIDCRotatesAndRevokesAtReuse(t *testing.T) {
	s := rig.OIDC(t, rig.OIDCConfig{AccessTokenTTL: 40 * time.Second})
	for _, client := range []string{rig.OIDCPublic, rig.OIDCPost, rig.OIDCBasic} {
		t.Run(client, func(t *testing.T) {
			login := s.Login(t, "alice", client)
			first := exchange(t, s, client, login.RefreshToken)
			if first.Error != "" || first.RefreshToken == login.RefreshToken || first.ExpiresIn != 40 {
				t.Fatalf("first exchange: error %q, expires in %d", first.Error, first.ExpiresIn)
			}
			second := exchange(t, s, client, first.RefreshToken)
			if second.Error != "" {
				t.Fatalf("second exchange: %s", second.Error)
			}
			if who, ok := s.Userinfo(t, second.AccessToken); !ok || who != "alice" {
				t.Errorf("userinfo: %q, %v", who, ok)
			}
			if g := s.Grant(t, login.GrantID); g.Revoked || g.Refreshes != 2 {
				t.Errorf("grant before the reuse: %+v", g)
			}
			if reused := exchange(t, s, client, login.RefreshToken); reused.Error != "invalid_grant" {
				t.Errorf("reuse: error %q, want invalid_grant", reused.Error)
			}
			if g := s.Grant(t, login.GrantID); !g.Revoked || g.Refreshes != 2 || len(g.Errors) != 1 {
				t.Errorf("grant after the reuse: %+v", g)
			}
			if _, ok := s.Userinfo(t, second.AccessToken); ok {
				t.Error("the access token outlived its grant")
			}
			if dead := exchange(t, s, client, second.RefreshToken); dead.Error != "invalid_grant" {
				t.Errorf("newest refresh token after the reuse: error %q, want invalid_grant", dead.Error)
			}
		})
	}
}

func TestProxyFails(t *testing.T) {
	// A server that remembers what it got and sends it back.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan string, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				lines := bufio.NewScanner(c)
				for lines.Scan() {
					got <- lines.Text()
					_, _ = io.WriteString(c, lines.Text()+"\n")
				}
			}()
		}
	}()
	p := rig.NewProxy(t, l.Addr().String())
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answers := bufio.NewReader(c)
	say := func(line string) {
		t.Helper()
		if _, err := io.WriteString(c, line+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	hear := func(want string) {
		t.Helper()
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if line, err := answers.ReadString('\n'); err != nil || line != want+"\n" {
			t.Fatalf("heard %q, %v, want %q", line, err, want)
		}
	}
	silence := func() {
		t.Helper()
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if line, err := answers.ReadString('\n'); err == nil {
			t.Fatalf("heard %q, want silence", line)
		}
	}

	say("open")
	hear("open")
	<-got
	p.Mute()
	say("mute")
	if line := <-got; line != "mute" {
		t.Fatalf("server got %q", line)
	}
	silence()
	p.Restore()
	hear("mute")
	p.Freeze()
	say("frozen")
	silence()
	if len(got) != 0 {
		t.Fatal("a frozen proxy let something through")
	}
	p.Restore()
	hear("frozen")
	if sent := string(p.Sent()); sent != "open\nmute\nfrozen\n" {
		t.Errorf("recorded %q", sent)
	}
	p.Cut()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := answers.ReadString('\n'); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("after the cut: %v", err)
	}
}
