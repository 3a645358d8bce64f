package events_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"pgregory.net/rapid"
)

// wantBadRequest fails unless err is a bad_request with that message, which
// must not quote a value.
func wantBadRequest(t *testing.T, err error, message string) {
	t.Helper()
	e, ok := errors.AsType[*events.Error](err)
	if !ok || e.Code != events.CodeBadRequest || !strings.HasPrefix(e.Message, message) {
		t.Fatalf("error %v, want bad_request with %q", err, message)
	}
	if strings.Contains(e.Message, "SECRET") {
		t.Errorf("the message quotes a value: %s", e.Message)
	}
}

func TestDecodeTokenRequest(t *testing.T) {
	defaults := events.TokenRequest{Timeout: events.DefaultTimeout}
	for name, tc := range map[string]struct {
		body string
		want events.TokenRequest
	}{
		"empty body":       {``, defaults},
		"empty object":     {`{}`, defaults},
		"unknown fields":   {`{"x":1,"y":{"z":[]}}`, defaults},
		"null fields":      {`{"min_version":null,"min_ttl":null,"timeout":null}`, defaults},
		"zeros":            {`{"min_version":0,"rejected_version":0,"known_version":0,"timeout":"0"}`, defaults},
		"any life":         {`{"min_ttl":"0s"}`, events.TokenRequest{MinTTL: 1, Timeout: events.DefaultTimeout}},
		"all":              {`{"min_version":1,"min_ttl":"1m30s","rejected_version":2,"known_version":3,"timeout":"1.5s"}`, events.TokenRequest{MinVersion: 1, MinTTL: 90 * time.Second, RejectedVersion: 2, KnownVersion: 3, Timeout: 1500 * time.Millisecond}},
		"largest version":  {`{"min_version":9223372036854775807}`, events.TokenRequest{MinVersion: 1<<63 - 1, Timeout: events.DefaultTimeout}},
		"largest duration": {`{"min_ttl":"2562047h47m16.854775807s"}`, events.TokenRequest{MinTTL: 1<<63 - 1, Timeout: events.DefaultTimeout}},
		"long timeout":     {`{"timeout":"24h"}`, events.TokenRequest{Timeout: events.MaxTimeout}},
		"space around":     {" {\n} ", defaults},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := events.DecodeTokenRequest([]byte(tc.body)); err != nil || got != tc.want {
				t.Errorf("%+v, %v; want %+v", got, err, tc.want)
			}
		})
	}
}

func TestDecodeTokenRequestNamesTheField(t *testing.T) {
	for name, tc := range map[string]struct{ body, want string }{
		"no JSON":               {`SECRET`, "body: not JSON at byte 1"},
		"cut short":             {`{"min_ttl":"SECRET`, "body: not JSON at byte"},
		"blank":                 {` `, "body: not JSON at byte"},
		"two values":            {`{}{}`, "body: not JSON at byte 3"},
		"array":                 {`[]`, "body: want a JSON object"},
		"text":                  {`"SECRET"`, "body: want a JSON object"},
		"number":                {`1`, "body: want a JSON object"},
		"null":                  {`null`, "body: want a JSON object"},
		"negative version":      {`{"min_version":-1}`, "min_version: must not be negative"},
		"negative rejected":     {`{"rejected_version":-1}`, "rejected_version: must not be negative"},
		"negative known":        {`{"known_version":-9223372036854775808}`, "known_version: must not be negative"},
		"negative min_ttl":      {`{"min_ttl":"-1ns"}`, "min_ttl: must not be negative"},
		"negative timeout":      {`{"timeout":"-1h"}`, "timeout: must not be negative"},
		"huge version":          {`{"min_version":9223372036854775808}`, "min_version: want a whole number"},
		"very huge version":     {`{"rejected_version":1e400}`, "rejected_version: want a whole number"},
		"fraction":              {`{"known_version":1.5}`, "known_version: want a whole number"},
		"exponent":              {`{"min_version":1e3}`, "min_version: want a whole number"},
		"version as text":       {`{"min_version":"SECRET"}`, "min_version: want a whole number"},
		"version as object":     {`{"min_version":{}}`, "min_version: want a whole number"},
		"version as bool":       {`{"min_version":true}`, "min_version: want a whole number"},
		"min_ttl as number":     {`{"min_ttl":30}`, `min_ttl: want a duration such as "30s"`},
		"min_ttl without unit":  {`{"min_ttl":"30"}`, `min_ttl: want a duration such as "30s"`},
		"min_ttl is words":      {`{"min_ttl":"SECRET"}`, `min_ttl: want a duration such as "30s"`},
		"min_ttl empty":         {`{"min_ttl":""}`, `min_ttl: want a duration such as "30s"`},
		"min_ttl too long":      {`{"min_ttl":"9999999999h"}`, `min_ttl: want a duration such as "30s"`},
		"min_ttl as object":     {`{"min_ttl":{"SECRET":1}}`, `min_ttl: want a duration such as "30s"`},
		"timeout as number":     {`{"timeout":10}`, `timeout: want a duration such as "30s"`},
		"timeout is words":      {`{"min_ttl":"30s","timeout":"soon"}`, `timeout: want a duration such as "30s"`},
		"timeout as list":       {`{"timeout":[]}`, `timeout: want a duration such as "30s"`},
		"deep, and cut":         {strings.Repeat(`{"a":`, 800), "body: not JSON at byte"},
		"too long":              {`{"SECRET":"` + strings.Repeat("a", 4096) + `"}`, "body: 4109 bytes, at most 4096 are taken"},
		"the first one wins":    {`{"timeout":1,"min_ttl":1}`, `timeout: want`},
		"wrong after something": {`{"min_version":5,"known_version":"x"}`, "known_version: want"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := events.DecodeTokenRequest([]byte(tc.body))
			wantBadRequest(t, err, tc.want)
			if got != (events.TokenRequest{}) {
				t.Errorf("decoded %+v all the same", got)
			}
		})
	}
}

func TestTokenRequestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		version := rapid.Map(rapid.Int64Min(0), func(n int64) account.Version { return account.Version(n) })
		want := events.TokenRequest{
			MinVersion: version.Draw(t, "min"), RejectedVersion: version.Draw(t, "rejected"), KnownVersion: version.Draw(t, "known"),
			MinTTL:  time.Duration(rapid.Int64Min(0).Draw(t, "ttl")),
			Timeout: time.Duration(rapid.Int64Range(1, int64(events.MaxTimeout)).Draw(t, "timeout")),
		}
		if got, err := events.DecodeTokenRequest(want.Encode()); err != nil || got != want {
			t.Fatalf("%+v came back as %+v, %v", want, got, err)
		}
	})
}

func TestDecodeAdminRequests(t *testing.T) {
	put, err := events.DecodeRequest[events.PutRequest]([]byte(`{"platform":"p","id":"i","type":"oauth","label":"","if_version":0,"credentials":{"a":1},"x":1}`))
	if err != nil || put.Platform != "p" || put.Label == nil || put.IfVersion == nil || *put.IfVersion != 0 || string(put.Credentials) != `{"a":1}` {
		t.Errorf("put = %#v, %v", put, err)
	}
	patch, err := events.DecodeRequest[events.PatchRequest]([]byte(`{"platform":"p","id":"i","proxy_url":null,"extra":{"a":null}}`))
	if err != nil || patch.Label != nil || string(patch.ProxyURL) != "null" || string(patch.Extra["a"]) != "null" {
		t.Errorf("patch = %#v, %v", patch, err)
	}
	if list, err := events.DecodeRequest[events.ListRequest](nil); err != nil || list != (events.ListRequest{}) {
		t.Errorf("an empty list = %+v, %v", list, err)
	}
	if r, err := events.DecodeRequest[events.KeyRequest]([]byte(`{"platform":"p","id":"i","force":true}`)); err != nil || !r.Force || r.ID != "i" {
		t.Errorf("key = %+v, %v", r, err)
	}
}

func TestDecodeAdminRequestsNameTheField(t *testing.T) {
	putOf := func(body string) error { _, err := events.DecodeRequest[events.PutRequest]([]byte(body)); return err }
	patchOf := func(body string) error { _, err := events.DecodeRequest[events.PatchRequest]([]byte(body)); return err }
	keyOf := func(body string) error { _, err := events.DecodeRequest[events.KeyRequest]([]byte(body)); return err }
	listOf := func(body string) error { _, err := events.DecodeRequest[events.ListRequest]([]byte(body)); return err }
	for name, tc := range map[string]struct {
		decode     func(string) error
		body, want string
	}{
		"put, no JSON":           {putOf, `{"credentials":SECRET}`, "body: not JSON at byte"},
		"put, array":             {putOf, `["SECRET"]`, "body: want a JSON object"},
		"put, null":              {putOf, `null`, "body: want a JSON object"},
		"put, platform":          {putOf, `{"platform":1}`, "platform: want a string"},
		"put, id":                {putOf, `{"id":["SECRET"]}`, "id: want a string"},
		"put, type":              {putOf, `{"type":{}}`, "type: want a string"},
		"put, label":             {putOf, `{"label":7}`, "label: want a string"},
		"put, if_version text":   {putOf, `{"if_version":"1"}`, "if_version: want a whole number"},
		"put, if_version float":  {putOf, `{"if_version":1.5}`, "if_version: want a whole number"},
		"put, if_version huge":   {putOf, `{"if_version":1e30}`, "if_version: want a whole number"},
		"patch, label":           {patchOf, `{"label":{}}`, "label: want a string"},
		"patch, extra":           {patchOf, `{"extra":"SECRET"}`, "extra: want an object"},
		"patch, credentials":     {patchOf, `{"credentials":["SECRET"]}`, "credentials: want an object"},
		"key, force":             {keyOf, `{"force":"yes"}`, "force: want true or false"},
		"key, platform":          {keyOf, `{"platform":{}}`, "platform: want a string"},
		"list, limit text":       {listOf, `{"limit":"10"}`, "limit: want a whole number"},
		"list, limit float":      {listOf, `{"limit":0.5}`, "limit: want a whole number"},
		"list, limit huge":       {listOf, `{"limit":99999999999999999999}`, "limit: want a whole number"},
		"list, status":           {listOf, `{"status":1}`, "status: want a string"},
		"list, cursor":           {listOf, `{"cursor":1}`, "cursor: want a string"},
		"list, nothing but text": {listOf, `"SECRET"`, "body: want a JSON object"},
	} {
		t.Run(name, func(t *testing.T) { wantBadRequest(t, tc.decode(tc.body), tc.want) })
	}
}

func TestRequestsPrintNoCredentials(t *testing.T) {
	secret := json.RawMessage(`{"access_token":"SECRET"}`)
	fields := map[string]json.RawMessage{"cookie": json.RawMessage(`"SECRET"`)}
	put := events.PutRequest{Platform: "p", ID: "i", Label: new("SECRET"), Credentials: secret}
	patch := events.PatchRequest{Platform: "p", ID: "i", ProxyURL: json.RawMessage(`"http://u:SECRET@p"`), Extra: fields, Credentials: fields}
	inBytes := strings.Trim(fmt.Sprint([]byte("SECRET")), "[]")
	for _, v := range []any{put, &put, patch, &patch, []any{put, patch}, map[string]any{"r": put}, struct{ R events.PatchRequest }{patch}} {
		for _, verb := range "vsqdxX" {
			for _, flags := range []string{"", "+", "#", " "} {
				text := fmt.Sprintf("%"+flags+string(verb), v)
				if strings.Contains(text, "SECRET") || strings.Contains(text, inBytes) || strings.Contains(strings.ToUpper(text), fmt.Sprintf("%X", "SECRET")) {
					t.Errorf("%%%s%c of %T prints %s", flags, verb, v, text)
				}
			}
		}
	}
	var log strings.Builder
	for _, h := range []slog.Handler{slog.NewJSONHandler(&log, nil), slog.NewTextHandler(&log, nil)} {
		slog.New(h).Info("x", "put", put, "patch", patch)
	}
	if strings.Contains(log.String(), "SECRET") || strings.Count(log.String(), `accounts.put of`) != 2 {
		t.Errorf("logged %s", log.String())
	}
	if out, err := json.Marshal(put); err != nil || !strings.Contains(string(out), `"credentials":{"access_token":"SECRET"}`) {
		t.Errorf("the JSON form is %s, %v", out, err)
	}
}

func TestAccountShowsNoSecret(t *testing.T) {
	out, err := json.Marshal(events.NewAccount(document()))
	if err != nil {
		t.Fatal(err)
	}
	for _, hidden := range []string{"SEALED", "FPA", "FPR", "FPS", "FPD", "rot-"} {
		if strings.Contains(string(out), hidden) {
			t.Errorf("%s shows %s", out, hidden)
		}
	}
}

func TestDecodeTokenReply(t *testing.T) {
	want := events.TokenReply{
		Key: key, Version: 7, AccessToken: account.NewSecret("eyJ.<&>.example"), TokenType: "Bearer", ExpiresAt: hours(1).UTC().Truncate(time.Second),
		Source: events.SourceRefresh, Extra: account.Extra{"project_id": json.RawMessage(`"p"`)},
	}
	got, err := events.DecodeTokenReply(key, want.Encode())
	if err != nil || !got.AccessToken.Equal(want.AccessToken) {
		t.Fatalf("%+v, %v", got, err)
	}
	got.AccessToken, want.AccessToken = account.Secret{}, account.Secret{}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v came back as %+v", want, got)
	}
	got, err = events.DecodeTokenReply(key, []byte(`{"version":7,"not_modified":true,"expires_at":"2026-03-01T13:00:00Z"}`))
	if err != nil || !got.NotModified || got.Version != 7 || got.Key != key || got.ExpiresAt.IsZero() {
		t.Errorf("not modified: %+v, %v", got, err)
	}
}

func TestDecodeTokenReplyRefuses(t *testing.T) {
	for name, tc := range map[string]struct{ body, want string }{
		"empty":           {``, "body: not JSON"},
		"null":            {`null`, "body: want a JSON object"},
		"array":           {`[]`, "body: want a JSON object"},
		"nothing":         {`{}`, "another account"},
		"another account": {`{"platform":"openai","id":"user-2","version":1,"access_token":"SECRET"}`, "another account"},
		"no token":        {`{"platform":"openai","id":"user-1","version":1}`, "access_token or version is missing"},
		"no version":      {`{"platform":"openai","id":"user-1","access_token":"SECRET"}`, "access_token or version is missing"},
		"negative":        {`{"platform":"openai","id":"user-1","version":-1,"access_token":"SECRET"}`, "access_token or version is missing"},
		"version as text": {`{"platform":"openai","id":"user-1","version":"1","access_token":"SECRET"}`, "version: want a whole number"},
		"token as number": {`{"platform":"openai","id":"user-1","version":1,"access_token":1}`, "access_token: want a string"},
		"expiry":          {`{"platform":"openai","id":"user-1","version":1,"access_token":"SECRET","expires_at":"SECRET"}`, "expires_at: want"},
		"expiry number":   {`{"platform":"openai","id":"user-1","version":1,"access_token":"SECRET","expires_at":{}}`, "expires_at: want a string"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := events.DecodeTokenReply(key, []byte(tc.body))
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "SECRET") {
				t.Fatalf("error %v, want one with %q", err, tc.want)
			}
			if !got.AccessToken.IsZero() || got.Version != 0 {
				t.Errorf("decoded %+v all the same", got)
			}
		})
	}
}

func TestErrorRoundTrip(t *testing.T) {
	for _, want := range []*events.Error{
		{Code: events.CodeCoolingDown, Message: `a "quoted" <message>`, RetryAfter: 1500 * time.Millisecond},
		{Code: events.CodeNotFound, Message: "no such account"},
	} {
		_, err := events.DecodeTokenReply(key, want.Encode())
		got, ok := errors.AsType[*events.Error](err)
		if !ok || *got != *want {
			t.Errorf("%+v came back as %+v", want, err)
		}
		if !errors.Is(err, &events.Error{Code: want.Code}) || errors.Is(err, &events.Error{Code: events.CodeTimeout}) || errors.Is(err, errors.New("x")) {
			t.Errorf("errors.Is doesn't compare codes of %v", err)
		}
	}
	if got := events.Code("new").HTTPStatus(); got != 500 {
		t.Errorf("an unknown code is %d", got)
	}
}

func TestEventsRoundTrip(t *testing.T) {
	utc := at.UTC()
	refreshed := events.Refreshed{Key: key, Version: 8, ExpiresAt: hours(1).UTC().Truncate(time.Second), Reason: events.ReasonForced, By: "w", At: utc}
	if got, err := events.DecodeRefreshed(refreshed.Encode()); err != nil || got != refreshed {
		t.Errorf("%+v came back as %+v, %v", refreshed, got, err)
	}
	bump := events.Bump{Key: key, Version: 8, Rev: 9, At: utc}
	if got, err := events.DecodeBump(bump.Encode()); err != nil || got != bump {
		t.Errorf("%+v came back as %+v, %v", bump, got, err)
	}
	status := events.Status{Key: key, Status: account.Disabled, Code: events.StatusDisabled, Message: "m", Until: utc, At: utc}
	if got, err := events.DecodeStatus(status.Encode()); err != nil || got != status {
		t.Errorf("%+v came back as %+v, %v", status, got, err)
	}
}

func TestDecodeEventsRefuse(t *testing.T) {
	refreshed := func(b string) error { _, err := events.DecodeRefreshed([]byte(b)); return err }
	bump := func(b string) error { _, err := events.DecodeBump([]byte(b)); return err }
	status := func(b string) error { _, err := events.DecodeStatus([]byte(b)); return err }
	for name, tc := range map[string]struct {
		decode     func(string) error
		body, want string
	}{
		"refreshed, empty":            {refreshed, ``, "refreshed event: body: not JSON"},
		"refreshed, null":             {refreshed, `null`, "refreshed event: body: want a JSON object"},
		"refreshed, no key":           {refreshed, `{"version":1}`, "the platform is empty"},
		"refreshed, bad key":          {refreshed, `{"platform":"p","id":"*","version":1}`, "the id may contain only"},
		"refreshed, version text":     {refreshed, `{"platform":"p","id":"i","version":"1"}`, "version: want a whole number"},
		"refreshed, version negative": {refreshed, `{"platform":"p","id":"i","version":-1}`, "version -1 is out of range"},
		"refreshed, expiry":           {refreshed, `{"platform":"p","id":"i","version":1,"expires_at":"soon"}`, "expires_at: want"},
		"refreshed, at":               {refreshed, `{"platform":"p","id":"i","version":1,"at":"soon"}`, "at: want an RFC 3339 time"},
		"refreshed, at as number":     {refreshed, `{"platform":"p","id":"i","version":1,"at":1}`, "at: want an RFC 3339 time"},
		"refreshed, at of year 10000": {refreshed, `{"platform":"p","id":"i","version":1,"at":"9999-12-31T23:59:59-12:00"}`, "at: want an RFC 3339 time"},
		"bump, no version":            {bump, `{"platform":"p","id":"i"}`, "version 0 and rev 0 are out of range"},
		"bump, rev negative":          {bump, `{"platform":"p","id":"i","version":1,"rev":-1}`, "out of range"},
		"bump, rev float":             {bump, `{"platform":"p","id":"i","version":1,"rev":1.5}`, "rev: want a whole number"},
		"bump, version huge":          {bump, `{"platform":"p","id":"i","version":1e99,"rev":1}`, "version: want a whole number"},
		"bump, cut":                   {bump, `{"platform":"p"`, "bump event: body: not JSON"},
		"status, no key":              {status, `{}`, "the platform is empty"},
		"status, code":                {status, `{"platform":"p","id":"i","code":1}`, "code: want a string"},
		"status, until":               {status, `{"platform":"p","id":"i","until":"x"}`, "until: want an RFC 3339 time"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := tc.decode(tc.body); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}

// TestFarExpiry: a provider may promise eternity; the reply stays readable.
func TestFarExpiry(t *testing.T) {
	r := events.TokenReply{Key: key, Version: 1, AccessToken: account.NewSecret("t"), ExpiresAt: time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)}
	got, err := events.DecodeTokenReply(key, r.Encode())
	if err != nil || got.ExpiresAt.Year() != 9999 {
		t.Errorf("%v, %v", got.ExpiresAt, err)
	}
}
