package opmsg

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/wiremessage"
)

// opQuery is the message of old that a driver's first handshake still is.
const opQuery wiremessage.OpCode = 2004

const (
	headerSize = 16
	maxMessage = 48 << 20 // what MongoDB takes
)

// Command is a command on its way to the server.
type Command struct {
	Name       string // as it is spelled in the message: "findAndModify"
	Database   string
	Collection string // "" where the command isn't about one
	Body       bson.Raw

	requestID int32
	legacy    bool // the handshake of old: OP_QUERY
	silent    bool // nobody waits for an answer
}

// readMessage reads one message, its header included.
func readMessage(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(size[:])
	if n < headerSize || n > maxMessage {
		return nil, fmt.Errorf("a message of %d bytes", n)
	}
	message := make([]byte, n)
	copy(message, size[:])
	_, err := io.ReadFull(r, message[4:])
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return message, err
}

// parseCommand reads a client's message. It returns false for one that is no
// command, or one that it can't read, such as a compressed one.
func parseCommand(message []byte) (Command, bool) {
	_, id, _, op, rest, ok := wiremessage.ReadHeader(message)
	if !ok {
		return Command{}, false
	}
	c := Command{requestID: id}
	switch op {
	case wiremessage.OpMsg:
		c.Body, c.silent, ok = parseBody(rest)
	case opQuery:
		c.legacy = true
		c.Body, ok = parseQuery(rest)
	default:
		return Command{}, false
	}
	if !ok || c.Body.Validate() != nil {
		return Command{}, false
	}
	first, err := c.Body.IndexErr(0)
	if err != nil {
		return Command{}, false
	}
	c.Name = first.Key()
	c.Collection, _ = first.Value().StringValueOK()
	c.Database, _ = c.Body.Lookup("$db").StringValueOK()
	return c, c.Name != ""
}

// parseBody returns the document of an OP_MSG. Sequences of documents, as a
// bulk of inserts has them, are passed over.
func parseBody(rest []byte) (body bson.Raw, silent, ok bool) {
	flags, rest, ok := wiremessage.ReadMsgFlags(rest)
	if !ok {
		return nil, false, false
	}
	if flags&wiremessage.ChecksumPresent != 0 {
		if len(rest) < 4 {
			return nil, false, false
		}
		rest = rest[:len(rest)-4]
	}
	for len(rest) > 0 {
		var kind wiremessage.SectionType
		if kind, rest, ok = wiremessage.ReadMsgSectionType(rest); !ok {
			return nil, false, false
		}
		switch kind {
		case wiremessage.SingleDocument:
			var doc bsoncore.Document
			if doc, rest, ok = wiremessage.ReadMsgSectionSingleDocument(rest); !ok || body != nil {
				return nil, false, false
			}
			body = bson.Raw(doc)
		case wiremessage.DocumentSequence:
			if len(rest) < 4 {
				return nil, false, false
			}
			n := binary.LittleEndian.Uint32(rest)
			if n < 4 || uint64(n) > uint64(len(rest)) {
				return nil, false, false
			}
			rest = rest[n:]
		default:
			return nil, false, false
		}
	}
	return body, flags&wiremessage.MoreToCome != 0, body != nil
}

// parseQuery returns the document of an OP_QUERY: flags, a collection's name,
// two numbers, the document.
func parseQuery(rest []byte) (bson.Raw, bool) {
	if len(rest) < 4 {
		return nil, false
	}
	_, rest, ok := bytes.Cut(rest[4:], []byte{0})
	if !ok || len(rest) < 8 {
		return nil, false
	}
	doc, _, ok := bsoncore.ReadDocument(rest[8:])
	return bson.Raw(doc), ok
}

// parseReply returns the document of a server's message, and whether more
// messages follow it without being asked for.
func parseReply(message []byte) (doc bson.Raw, more, ok bool) {
	_, _, _, op, rest, ok := wiremessage.ReadHeader(message)
	if !ok {
		return nil, false, false
	}
	switch op {
	case wiremessage.OpMsg:
		doc, more, ok = parseBody(rest)
	case wiremessage.OpReply:
		const fixed = 20 // flags, cursor, start, number
		if len(rest) < fixed {
			return nil, false, false
		}
		var d bsoncore.Document
		d, _, ok = wiremessage.ReadReplyDocument(rest[fixed:])
		doc = bson.Raw(d)
	default:
		return nil, false, false
	}
	return doc, more, ok && doc.Validate() == nil
}

// reply returns the message that answers c with the document.
func (c Command) reply(doc bson.Raw) []byte {
	op := wiremessage.OpMsg
	if c.legacy {
		op = wiremessage.OpReply
	}
	index, m := wiremessage.AppendHeaderStart(nil, wiremessage.NextRequestID(), c.requestID, op)
	if c.legacy {
		m = wiremessage.AppendReplyFlags(m, 0)
		m = wiremessage.AppendReplyCursorID(m, 0)
		m = wiremessage.AppendReplyStartingFrom(m, 0)
		m = wiremessage.AppendReplyNumberReturned(m, 1)
	} else {
		m = wiremessage.AppendMsgFlags(m, 0)
		m = wiremessage.AppendMsgSectionType(m, wiremessage.SingleDocument)
	}
	m = append(m, doc...)
	return bsoncore.UpdateLength(m, index, int32(len(m)))
}
