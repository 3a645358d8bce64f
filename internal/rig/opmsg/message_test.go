package opmsg

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/wiremessage"
)

func raw(t testing.TB, d bson.D) bson.Raw {
	t.Helper()
	b, err := bson.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// opMsg returns an OP_MSG with the sections.
func opMsg(flags wiremessage.MsgFlag, sections ...[]byte) []byte {
	index, m := wiremessage.AppendHeaderStart(nil, 7, 0, wiremessage.OpMsg)
	m = wiremessage.AppendMsgFlags(m, flags)
	for _, s := range sections {
		m = append(m, s...)
	}
	return bsoncore.UpdateLength(m, index, int32(len(m)))
}

func body(doc []byte) []byte { return append([]byte{0}, doc...) }

func sequence(name string, docs ...[]byte) []byte {
	content := append([]byte(name), 0)
	for _, d := range docs {
		content = append(content, d...)
	}
	n := len(content) + 4
	return append([]byte{1, byte(n), byte(n >> 8), 0, 0}, content...)
}

func query(doc []byte) []byte {
	index, m := wiremessage.AppendHeaderStart(nil, 7, 0, opQuery)
	m = append(m, "\x00\x00\x00\x00admin.$cmd\x00\x00\x00\x00\x00\xff\xff\xff\xff"...)
	m = append(m, doc...)
	return bsoncore.UpdateLength(m, index, int32(len(m)))
}

func TestParseCommand(t *testing.T) {
	insert := raw(t, bson.D{{Key: "insert", Value: "accounts"}, {Key: "$db", Value: "d"}})
	doc := raw(t, bson.D{{Key: "_id", Value: "x"}})
	hello := raw(t, bson.D{{Key: "isMaster", Value: 1}})
	for _, c := range []struct {
		name    string
		message []byte
		want    Command
		ok      bool
	}{
		{"a body", opMsg(0, body(insert)), Command{Name: "insert", Database: "d", Collection: "accounts"}, true},
		{"a sequence after it", opMsg(0, body(insert), sequence("documents", doc, doc)), Command{Name: "insert", Database: "d", Collection: "accounts"}, true},
		{"a sequence before it", opMsg(0, sequence("documents", doc), body(insert)), Command{Name: "insert", Database: "d", Collection: "accounts"}, true},
		{"with a checksum", opMsg(wiremessage.ChecksumPresent, body(insert), []byte{1, 2, 3, 4}), Command{Name: "insert", Database: "d", Collection: "accounts"}, true},
		{"nobody waits", opMsg(wiremessage.MoreToCome, body(insert)), Command{Name: "insert", Database: "d", Collection: "accounts", silent: true}, true},
		{"the old handshake", query(hello), Command{Name: "isMaster", legacy: true}, true},
		{"two bodies", opMsg(0, body(insert), body(insert)), Command{}, false},
		{"no body", opMsg(0, sequence("documents", doc)), Command{}, false},
		{"no sections", opMsg(0), Command{}, false},
		{"an unknown section", opMsg(0, []byte{9}), Command{}, false},
		{"an empty document", opMsg(0, body(raw(t, bson.D{}))), Command{}, false},
		{"cut short", opMsg(0, body(insert[:len(insert)-3])), Command{}, false},
		{"compressed", wiremessage.AppendHeader(nil, 16, 7, 0, wiremessage.OpCompressed), Command{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := parseCommand(c.message)
			if ok && got.requestID != 7 {
				t.Errorf("request id %d", got.requestID)
			}
			got.Body, got.requestID = nil, 0
			if ok != c.ok || ok && (got.Name != c.want.Name || got.Database != c.want.Database ||
				got.Collection != c.want.Collection || got.silent != c.want.silent || got.legacy != c.want.legacy) {
				t.Errorf("got %+v, %v, want %+v, %v", got, ok, c.want, c.ok)
			}
		})
	}
}

func TestReadMessage(t *testing.T) {
	m := opMsg(0, body(raw(t, bson.D{{Key: "ping", Value: 1}})))
	got, err := readMessage(bytes.NewReader(append(m, "more"...)))
	if err != nil || !bytes.Equal(got, m) {
		t.Errorf("got %x, %v, want %x", got, err, m)
	}
	for name, in := range map[string]string{
		"nothing":    "",
		"cut short":  string(m[:len(m)-1]),
		"size alone": string(m[:4]),
		"too small":  "\x0f\x00\x00\x00" + strings.Repeat("x", 32),
		"too large":  "\xff\xff\xff\x7f" + strings.Repeat("x", 32),
	} {
		if _, err := readMessage(strings.NewReader(in)); err == nil || name == "cut short" && err != io.ErrUnexpectedEOF {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// Whatever comes in: no panic; and what is read as a command can be answered
// in a way that is read as the answer.
func FuzzParse(f *testing.F) {
	doc := raw(f, bson.D{{Key: "insert", Value: "accounts"}, {Key: "$db", Value: "d"}})
	f.Add(opMsg(0, body(doc), sequence("documents", doc)))
	f.Add(opMsg(wiremessage.ChecksumPresent|wiremessage.MoreToCome, body(doc), []byte{1, 2, 3, 4}))
	f.Add(query(doc))
	f.Add(Command{legacy: true}.reply(doc))
	f.Add(Command{}.reply(doc))
	f.Fuzz(func(t *testing.T, message []byte) {
		if doc, _, ok := parseReply(message); ok && doc.Validate() != nil {
			t.Error("a reply with an invalid document")
		}
		c, ok := parseCommand(message)
		if !ok {
			return
		}
		if c.Name == "" || c.Body.Validate() != nil {
			t.Errorf("a command without a name or with an invalid document: %+v", c)
		}
		_ = statement(c)
		want := Refuse(1, "Name", RetryableWrite)(nil)
		reply := c.reply(raw(t, want))
		if got, err := readMessage(bytes.NewReader(reply)); err != nil || !bytes.Equal(got, reply) {
			t.Errorf("the reply isn't one message: %v", err)
		}
		got, more, ok := parseReply(reply)
		if !ok || more || !bytes.Equal(got, raw(t, want)) {
			t.Errorf("the reply is read as %v, %v, %v", got, more, ok)
		}
	})
}
