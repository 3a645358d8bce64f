package snippets_test

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
)

// programs is the folder with the worker, once build has returned.
var programs string

// build builds the worker, once for all tests.
var build = sync.OnceValue(func() error {
	cmd := exec.Command("go", "build", "-o", programs+string(filepath.Separator), "github.com/tokenbus/tokenbus/cmd/worker")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the worker: %w\n%s", err, out)
	}
	return nil
})

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "tokenbus-snippets-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	programs = dir
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// fleet is a worker with its own NATS server, and its token endpoint.
type fleet struct {
	endpoint *oauthtest.Server
	web      *httptest.Server
	keys     string     // folder of the roles' keys
	link     *rig.Proxy // between the clients and the server
	operator *nats.Conn
	listener *nats.Conn         // of a worker's role
	requests *nats.Subscription // of the listener, to what the clients ask
	subjects events.Subjects
}

func startFleet(t *testing.T) *fleet {
	t.Helper()
	if err := build(); err != nil {
		t.Fatal(err)
	}
	endpoint, err := oauthtest.New(oauthtest.Config{ClientID: "test-app", Auth: "none"})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(endpoint)
	t.Cleanup(web.Close)

	dir := t.TempDir()
	providers := filepath.Join(dir, "providers.yaml")
	definition := "providers:\n  test:\n    token_url: " + web.URL + "/token\n    client_id: test-app\n"
	if err := os.WriteFile(providers, []byte(definition), 0o600); err != nil {
		t.Fatal(err)
	}
	p := rig.StartProgram(t, exec.Command(filepath.Join(programs, "worker"), "--data-dir", dir, "--providers", providers,
		"--nats-listen", "127.0.0.1:0", "--http-addr", "none", "--log-format", "json"))
	server, err := url.Parse(p.Await(t, "embedded NATS server listens")["url"].(string))
	if err != nil {
		t.Fatal(err)
	}
	p.Await(t, "worker answers requests")

	f := &fleet{endpoint: endpoint, web: web, keys: filepath.Join(dir, "nats"), link: rig.NewProxy(t, server.Host)}
	if f.subjects, err = events.NewSubjects(events.DefaultPrefix); err != nil {
		t.Fatal(err)
	}
	f.operator = f.dial(t, server.String(), "operator")
	f.listener = f.dial(t, server.String(), "worker")
	if f.requests, err = f.listener.SubscribeSync(f.subjects.AllRequests()); err != nil {
		t.Fatal(err)
	}
	if err := f.listener.Flush(); err != nil {
		t.Fatal(err)
	}
	return f
}

// dial connects with the role's key.
func (f *fleet) dial(t *testing.T, server, role string) *nats.Conn {
	t.Helper()
	key, err := nats.NkeyOptionFromSeed(filepath.Join(f.keys, role+".nk"))
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(server, key, nats.CustomInboxPrefix("_INBOX_"+role))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// asked returns the min_version of each request that was made for the account.
func (f *fleet) asked(t *testing.T, id string) []account.Version {
	t.Helper()
	if err := f.listener.Flush(); err != nil { // so that all have arrived
		t.Fatal(err)
	}
	n, _, err := f.requests.Pending()
	if err != nil {
		t.Fatal(err)
	}
	var versions []account.Version
	for range n {
		msg, err := f.requests.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(msg.Subject, "."+id) {
			continue
		}
		r, err := events.DecodeTokenRequest(msg.Data)
		if err != nil {
			t.Fatal(err)
		}
		versions = append(versions, r.MinVersion)
	}
	return versions
}

// admin asks for a verb and returns the account.
func (f *fleet) admin(t *testing.T, verb string, request any) events.Account {
	t.Helper()
	body, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := f.operator.Request(f.subjects.Admin(verb), body, patience)
	if err != nil {
		t.Fatalf("%s: %v", verb, err)
	}
	if problem := msg.Header.Get(events.HeaderError); problem != "" {
		t.Fatalf("%s: %s", verb, problem)
	}
	var a events.Account
	if err := json.Unmarshal(msg.Data, &a); err != nil {
		t.Fatalf("%s: %v", verb, err)
	}
	return a
}

// put logs an account in whose access token lives for an hour.
func (f *fleet) put(t *testing.T, id, access, refresh string) {
	t.Helper()
	credentials, err := json.Marshal(map[string]any{"access_token": access, "refresh_token": refresh, "expires_at": time.Now().Add(time.Hour).Unix()})
	if err != nil {
		t.Fatal(err)
	}
	f.admin(t, events.VerbPut, events.PutRequest{Platform: "test", ID: id, Type: "oauth", Credentials: credentials})
}
