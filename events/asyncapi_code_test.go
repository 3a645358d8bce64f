package events_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// Every subject that this package builds has a channel, and every channel is
// one of these subjects.
func TestAsyncAPISubjects(t *testing.T) {
	c := readContract(t)
	subjects, err := events.NewSubjects(events.DefaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	// A pattern matches the subjects of one channel.
	patterns := map[string]*regexp.Regexp{}
	for name, channel := range c.Channels {
		if channel.Address == "" { // an inbox
			continue
		}
		pattern := regexp.MustCompile(`\\\{\w+\\\}`).ReplaceAllString(regexp.QuoteMeta(channel.Address), `[^.]+`)
		patterns[name] = regexp.MustCompile("^" + pattern + "$")
	}
	matched := map[string]bool{}
	match := func(subject string) {
		found := false
		for name, pattern := range patterns {
			if pattern.MatchString(strings.Replace(subject, ".>", "."+key.String(), 1)) {
				found, matched[name] = true, true
			}
		}
		if !found {
			t.Errorf("%s: no channel", subject)
		}
	}
	for _, verb := range constants(t, ".", isVerb) {
		match(subjects.Admin(verb))
	}
	for method, value := range reflect.ValueOf(subjects).Methods() {
		switch build := value.Interface().(type) {
		case func(account.Key) string:
			match(build(key))
		case func() string:
			match(build())
		case func(string) string: // Admin
		case func(string) (account.Key, error): // ParseRequest
		default:
			t.Errorf("%s: the test doesn't know how to call it", method.Name)
		}
	}
	for name := range patterns {
		if !matched[name] {
			t.Errorf("channel %s: package events has no such subject", name)
		}
	}
	text := string(readGolden(t, "subjects", map[string]bool{}))
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); strings.Contains(line, ".") {
			match(line)
		}
	}
}

// The schemas name the values that the code has, all of them and no others.
func TestAsyncAPIValues(t *testing.T) {
	c := readContract(t)
	for schema, of := range map[string]struct{ dir, typ string }{
		"Code": {".", "Code"}, "Source": {".", "Source"}, "Reason": {".", "Reason"}, "JournalPlace": {".", "JournalPlace"},
		"AccountStatus": {"../account", "Status"}, "RotationState": {"../account", "RotationState"},
	} {
		sameWords(t, schema, constants(t, of.dir, func(_, typ string) bool { return typ == of.typ }), c.Components.Schemas[schema].Enum)
	}
	codes := constants(t, ".", isStatusCode)
	sameWords(t, "StatusCode", codes, c.Components.Schemas["StatusCode"].Examples)
	var numbers, header []string
	for _, code := range c.Components.Schemas["Code"].Enum {
		numbers = append(numbers, strconv.Itoa(events.Code(code).HTTPStatus()))
	}
	properties, _ := c.Components.Schemas["ErrorHeaders"].Properties[events.HeaderErrorCode].(map[string]any)
	for _, n := range properties["enum"].([]any) {
		header = append(header, n.(string))
	}
	sameWords(t, events.HeaderErrorCode, numbers, header)
}

// Workers answer in the queue groups that the document names.
func TestAsyncAPIQueueGroups(t *testing.T) {
	c := readContract(t)
	answers := 0
	for name, operation := range c.Operations {
		want := ""
		if operation.Reply != nil {
			answers++
			want = events.AdminService
			if operation.Channel.Ref == "#/channels/request" || operation.Channel.Ref == "#/channels/catchUp" {
				want = events.QueueGroup
			}
		}
		if got := operation.Bindings.NATS.Queue; got != want {
			t.Errorf("operation %s: queue %q, want %q", name, got, want)
		}
	}
	if verbs := constants(t, ".", isVerb); answers != 2+len(verbs) {
		t.Errorf("%d operations answer; there are token requests, requests to catch up and the verbs %v", answers, verbs)
	}
}

func isVerb(name, _ string) bool         { return strings.HasPrefix(name, "Verb") }
func isStatusCode(name, typ string) bool { return strings.HasPrefix(name, "Status") && typ == "" }

func sameWords(t *testing.T, what string, code, schema []string) {
	t.Helper()
	slices.Sort(code)
	slices.Sort(schema)
	if !slices.Equal(code, schema) {
		t.Errorf("%s: the code has %v and the schema %v", what, code, schema)
	}
}

// constants returns the values of the string constants in the folder's sources
// that want takes, by name and type ("" if not given).
func constants(t *testing.T, dir string, want func(name, typ string) bool) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for node := range ast.Preorder(source) {
			spec, ok := node.(*ast.ValueSpec)
			if !ok || len(spec.Values) != 1 {
				continue
			}
			typ, _ := spec.Type.(*ast.Ident)
			if typ == nil {
				typ = &ast.Ident{}
			}
			value, ok := spec.Values[0].(*ast.BasicLit)
			if !ok || value.Kind != token.STRING || !want(spec.Names[0].Name, typ.Name) {
				continue
			}
			text, err := strconv.Unquote(value.Value)
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, text)
		}
	}
	return values
}

// The schemas of the verbs have the fields of the Go types, and require those
// that are always there.
func TestAsyncAPIFields(t *testing.T) {
	c := readContract(t)
	for schema, typ := range map[string]reflect.Type{
		"PutRequest": reflect.TypeFor[events.PutRequest](), "PatchRequest": reflect.TypeFor[events.PatchRequest](),
		"RefreshRequest": reflect.TypeFor[events.KeyRequest](), "ListRequest": reflect.TypeFor[events.ListRequest](), "ListReply": reflect.TypeFor[events.ListReply](),
		"Account": reflect.TypeFor[events.Account](), "AccountError": reflect.TypeFor[events.AccountError](), "Rotation": reflect.TypeFor[events.Rotation](),
		"JournalRequest": reflect.TypeFor[events.JournalRequest](), "JournalReply": reflect.TypeFor[events.JournalReply](),
		"JournalRecord": reflect.TypeFor[events.JournalRecord](), "CatchUpRequest": reflect.TypeFor[events.CatchUpRequest](),
	} {
		var fields, required []string
		for _, f := range reflect.VisibleFields(typ) {
			name, option, _ := strings.Cut(f.Tag.Get("json"), ",")
			fields = append(fields, name)
			if option == "" {
				required = append(required, name)
			}
		}
		s := c.Components.Schemas[schema]
		sameWords(t, schema, fields, slices.Collect(maps.Keys(s.Properties)))
		sameWords(t, schema+": required", required, s.Required)
	}
}
