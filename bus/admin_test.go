package bus_test

import (
	"encoding/json"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

func (r rigged) admin(t testing.TB, verb, body string) *nats.Msg {
	t.Helper()
	m, err := r.operator.Request("tokenbus.v1.admin."+verb, []byte(body), patience)
	check(t, err)
	return m
}

func TestAdminVerbs(t *testing.T) {
	r := rig(t)
	const who = `"platform":"openai","id":"a"`
	keyOnly := events.KeyRequest{Platform: "openai", ID: "a"}
	tests := []struct {
		verb, body, called string
		want               any
	}{
		{events.VerbPut, `{` + who + `,"type":"oauth","credentials":{"refresh_token":"r"}}`, "put",
			events.PutRequest{Platform: "openai", ID: "a", Type: "oauth", Credentials: json.RawMessage(`{"refresh_token":"r"}`)}},
		{events.VerbPatch, `{` + who + `,"proxy_url":null}`, "patch", events.PatchRequest{Platform: "openai", ID: "a", ProxyURL: json.RawMessage("null")}},
		{events.VerbGet, `{` + who + `}`, "get", keyOnly},
		{events.VerbDelete, `{` + who + `}`, "delete", keyOnly},
		{events.VerbEnable, `{` + who + `}`, "enable", keyOnly},
		{events.VerbDisable, `{` + who + `}`, "disable", keyOnly},
		{events.VerbRefresh, `{` + who + `,"force":true}`, "refresh", events.KeyRequest{Platform: "openai", ID: "a", Force: true}},
		{events.VerbClearError, `{` + who + `}`, "clear_error", keyOnly},
		{events.VerbList, ``, "list", events.ListRequest{}},
		{events.VerbJournal, ``, "journal", events.JournalRequest{}},
		{events.VerbJournal, `{"later":1}`, "journal", events.JournalRequest{}},
		{events.VerbList, `{"status":"active","limit":1000,"cursor":"c"}`, "list", events.ListRequest{Status: account.Active, Limit: 1000, Cursor: "c"}},
	}
	for _, tt := range tests {
		t.Run(tt.verb, func(t *testing.T) {
			called := make(chan string, 1)
			r.fleet.verb = func(name string, req any) (events.Account, error) {
				got, _ := json.Marshal(req)
				want, _ := json.Marshal(tt.want)
				if string(got) != string(want) {
					t.Errorf("request is %s, want %s", got, want)
				}
				called <- name
				return events.Account{Platform: "openai", ID: "a", Version: 3}, nil
			}
			m := r.admin(t, tt.verb, tt.body)
			if name := receive(t, called, "verb"); name != tt.called {
				t.Errorf("%s was called", name)
			}
			var a events.Account
			switch tt.called {
			case "list":
				var l events.ListReply
				check(t, json.Unmarshal(m.Data, &l))
				a = l.Accounts[0]
			case "journal":
				var l events.JournalReply
				check(t, json.Unmarshal(m.Data, &l))
				a.Version = l.Records[0].FromVersion
			default:
				check(t, json.Unmarshal(m.Data, &a))
			}
			if a.Version != 3 || m.Header.Get(events.HeaderErrorCode) != "" {
				t.Errorf("answer is %s", m.Data)
			}
		})
	}
}

func TestP10BadAdminRequests(t *testing.T) {
	r := rig(t)
	r.fleet.verb = func(name string, _ any) (events.Account, error) {
		t.Errorf("a bad request got through to %s", name)
		return events.Account{}, nil
	}
	bodies := []string{
		``, `null`, `{`, `[]`, `"x"`, `7`, "\xff\xfe", `{"platform":7}`, `{"platform":"openai"}`, `{"id":"a"}`,
		`{"platform":"Open AI","id":"a"}`, `{"platform":"openai","id":"a.b"}`, `{"platform":"openai","id":"*"}`,
		`{"platform":"openai","id":["a"]}`, `{"platform":"openai","id":"a"}}`,
	}
	for _, verb := range []string{"put", "patch", "get", "delete", "enable", "disable", "refresh", "clear_error"} {
		for _, body := range bodies {
			if e := errorOf(t, r.admin(t, "accounts."+verb, body)); e.Code != events.CodeBadRequest || e.Message == "" {
				t.Errorf("%s %s: error is %v", verb, body, e)
			}
		}
	}
	for _, body := range []string{`{`, `[]`, `{"limit":-1}`, `{"limit":1001}`, `{"limit":"1"}`, `{"status":"dead"}`, `{"cursor":1}`} {
		if e := errorOf(t, r.admin(t, events.VerbList, body)); e.Code != events.CodeBadRequest {
			t.Errorf("list %s: error is %v", body, e)
		}
	}
	for _, body := range []string{`{`, `[]`, `null`, `"x"`, "\xff"} {
		if e := errorOf(t, r.admin(t, events.VerbJournal, body)); e.Code != events.CodeBadRequest {
			t.Errorf("journal %q: error is %v", body, e)
		}
	}
}

func TestAdminErrors(t *testing.T) {
	r := rig(t)
	r.fleet.verb = func(string, any) (events.Account, error) {
		return events.Account{}, &events.Error{Code: events.CodeNotFound, Message: "no such account"}
	}
	if e := errorOf(t, r.admin(t, events.VerbGet, `{"platform":"openai","id":"a"}`)); e.Code != events.CodeNotFound {
		t.Errorf("error is %v", e)
	}
}

func FuzzAdminBody(f *testing.F) {
	r := rig(f)
	r.fleet.verb = func(string, any) (events.Account, error) { return events.Account{Platform: "openai", ID: "a"}, nil }
	for _, body := range []string{``, `{}`, `{"platform":"openai","id":"a"}`, `{"platform":"openai","id":"a","credentials":{}}`, `[`, `{"limit":1e9}`} {
		f.Add(body)
	}
	verbs := []string{events.VerbPut, events.VerbPatch, events.VerbGet, events.VerbList, events.VerbJournal}
	f.Fuzz(func(t *testing.T, body string) {
		for _, verb := range verbs {
			m := r.admin(t, verb, body)
			if m.Header.Get(events.HeaderErrorCode) != "" {
				if e := errorOf(t, m); e.Code != events.CodeBadRequest {
					t.Errorf("%s %q: error is %v", verb, body, e)
				}
			} else if !json.Valid(m.Data) {
				t.Errorf("%s %q: answer %q", verb, body, m.Data)
			}
		}
	})
}
