package events_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"
)

// contract is docs/asyncapi.yaml, as far as these tests look into it.
type contract struct {
	document any // the whole of it, as JSON
	Channels map[string]struct {
		Address string
	}
	Operations map[string]struct {
		Channel  reference
		Reply    *struct{ Channel reference }
		Bindings struct {
			NATS struct{ Queue string }
		}
	}
	Components struct {
		Messages map[string]message
		Schemas  map[string]struct {
			Enum, Examples, Required []string
			Properties               map[string]any
		}
	}
}

type message struct {
	Headers, Payload reference
	Examples         []struct {
		Name    string // of a golden file
		Headers map[string]string
		Payload json.RawMessage
	}
}

type reference struct {
	Ref string `json:"$ref"`
}

func readContract(t *testing.T) contract {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "docs", "asyncapi.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var document any
	if err := yaml.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	asJSON := marshal(t, document)
	var c contract
	if err := json.Unmarshal(asJSON, &c); err != nil {
		t.Fatal(err)
	}
	c.document = parseJSON(t, asJSON)
	return c
}

func parseJSON(t *testing.T, data []byte) any {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	return v
}

// compile returns the schema at the pointer ("#/…") of the document.
func compile(t *testing.T, document any, pointer string) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7) // the one that AsyncAPI's schemas extend
	c.AssertFormat()
	if err := c.AddResource("contract.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("contract.json" + pointer)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// references calls found with each $ref of the document.
func references(v any, found func(string)) {
	switch v := v.(type) {
	case map[string]any:
		if ref, ok := v["$ref"].(string); ok {
			found(ref)
		}
		for _, item := range v {
			references(item, found)
		}
	case []any:
		for _, item := range v {
			references(item, found)
		}
	}
}

// lookUp returns what the pointer ("#/a/b") points to, or nil.
func lookUp(document any, pointer string) any {
	for name := range strings.SplitSeq(strings.TrimPrefix(pointer, "#/"), "/") {
		object, _ := document.(map[string]any)
		document = object[name]
	}
	return document
}

// closed returns a copy in which no object has fields that its schema doesn't
// name: the wire allows them, our own messages must not need that.
func closed(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, item := range v {
			out[name] = closed(item)
		}
		if _, ok := v["properties"]; ok && v["type"] == "object" && v["additionalProperties"] == nil {
			out["additionalProperties"] = false
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = closed(item)
		}
		return out
	}
	return v
}

func TestAsyncAPIDocument(t *testing.T) {
	c := readContract(t)
	specification, err := os.ReadFile(filepath.Join("testdata", "asyncapi", "3.0.0.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := compile(t, parseJSON(t, specification), "").Validate(c.document); err != nil {
		t.Error(err)
	}
	used := map[string]bool{}
	references(c.document, func(ref string) {
		used[ref] = true
		if lookUp(c.document, ref) == nil {
			t.Errorf("%s: there is no such thing", ref)
		}
	})
	for _, kind := range []string{"channels", "components/messages", "components/schemas", "components/parameters"} {
		things, _ := lookUp(c.document, "#/"+kind).(map[string]any)
		if len(things) == 0 {
			t.Errorf("no %s", kind)
		}
		for name := range things {
			if ref := "#/" + kind + "/" + name; !used[ref] {
				t.Errorf("%s: nothing refers to it", ref)
			}
		}
	}
}

// Every golden file is an example of the message whose schema it meets.
func TestAsyncAPIGoldenFiles(t *testing.T) {
	c := readContract(t)
	strict := closed(c.document)
	used := map[string]bool{"subjects": true} // see TestAsyncAPISubjects
	for name, m := range c.Components.Messages {
		payload, strictPayload := compile(t, c.document, m.Payload.Ref), compile(t, strict, m.Payload.Ref)
		for _, example := range m.Examples {
			at := name + ": example " + example.Name
			body := readGolden(t, example.Name, used)
			if len(body) == 0 {
				t.Errorf("%s: no golden file", at)
				continue
			}
			want := parseJSON(t, body)
			if !reflect.DeepEqual(want, parseJSON(t, example.Payload)) {
				t.Errorf("%s: the example is\n%s\nand the golden file\n%s", at, example.Payload, body)
			}
			for _, schema := range []*jsonschema.Schema{payload, strictPayload} {
				if err := schema.Validate(want); err != nil {
					t.Errorf("%s: %v", at, err)
				}
			}
			header := goldenHeader(t, example.Name, used)
			if !maps.Equal(header, example.Headers) {
				t.Errorf("%s: the example's headers are %v and those of the golden files %v", at, example.Headers, header)
			}
			if len(header) == 0 {
				continue
			}
			for _, document := range []any{c.document, strict} {
				if m.Headers.Ref == "" {
					t.Errorf("%s: no schema for the headers", at)
				} else if err := compile(t, document, m.Headers.Ref).Validate(parseJSON(t, marshal(t, header))); err != nil {
					t.Errorf("%s: headers: %v", at, err)
				}
			}
		}
	}
	files, err := filepath.Glob("testdata/*.golden")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files (%v)", err)
	}
	for _, f := range files {
		if !used[strings.TrimSuffix(filepath.Base(f), ".golden")] {
			t.Errorf("%s: no message has it as an example", f)
		}
	}
}

// readGolden returns a golden file without its last newline, empty if there is
// none, and notes that it was used.
func readGolden(t *testing.T, name string, used map[string]bool) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".golden"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	used[name] = err == nil
	return bytes.TrimSuffix(text, []byte("\n"))
}

// goldenHeader returns the headers that golden files give for a message; nil
// for none.
func goldenHeader(t *testing.T, name string, used map[string]bool) map[string]string {
	t.Helper()
	var header map[string]string
	for line := range strings.Lines(string(readGolden(t, name+"_headers", used))) {
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		if header == nil {
			header = map[string]string{}
		}
		header[field] = value
	}
	if id := readGolden(t, name+"_msgid", used); len(id) > 0 {
		header["Nats-Msg-Id"] = string(id)
	}
	return header
}

func TestAsyncAPIRefuses(t *testing.T) {
	c := readContract(t)
	for _, bad := range []struct{ schema, payload string }{
		{"TokenRequest", `{"min_version":-1}`},
		{"TokenRequest", `{"min_version":"7"}`},
		{"TokenRequest", `{"min_ttl":"-1s"}`},
		{"TokenRequest", `{"timeout":10}`},
		{"TokenRequest", `{"timeout":"10"}`},
		{"TokenReply", `{"platform":"openai","id":"a","version":1,"token_type":"Bearer","source":"l1"}`},
		{"TokenReply", `{"platform":"open.ai","id":"a","version":1,"access_token":"t","token_type":"Bearer","source":"l1"}`},
		{"TokenReply", `{"platform":"openai","id":"a","version":0,"access_token":"t","token_type":"Bearer","source":"l1"}`},
		{"TokenReply", `{"platform":"openai","id":"a","version":1,"access_token":"t","token_type":"Bearer","source":"disk"}`},
		{"TokenReply", `{"platform":"openai","id":"a","version":1,"access_token":"t","token_type":"Bearer","source":"l1","expires_at":"tomorrow"}`},
		{"NotModified", `{"version":1,"not_modified":false}`},
		{"ErrorReply", `{"error":{"code":"cooling_down","message":"m"}}`},
		{"ErrorReply", `{"error":{"code":"teapot","message":"m"}}`},
		{"ErrorHeaders", `{"Nats-Service-Error":"m","Nats-Service-Error-Code":"500"}`},
		{"Bump", `{"platform":"openai","id":"a","version":1,"at":"2026-03-01T12:00:00Z"}`},
		{"BumpHeaders", `{"ce-specversion":"1.0","ce-id":"openai.a:1","ce-type":"dev.tokenbus.status.v1","ce-source":"w","ce-time":"2026-03-01T12:00:00Z"}`},
		{"PutRequest", `{"platform":"openai","id":"a","type":"api_key","credentials":{}}`},
		{"KeyRequest", `{"platform":"openai"}`},
		{"ListRequest", `{"limit":1001}`},
	} {
		if compile(t, c.document, "#/components/schemas/"+bad.schema).Validate(parseJSON(t, []byte(bad.payload))) == nil {
			t.Errorf("%s takes %s", bad.schema, bad.payload)
		}
	}
}
