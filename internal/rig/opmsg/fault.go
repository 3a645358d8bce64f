package opmsg

import (
	"fmt"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// Fault is what happens to a command instead of what should. Its zero value
// closes the connection before the server hears of the command.
type Fault struct {
	// Done: the server carries the command out first, whatever the client is
	// told.
	Done bool
	// Answer makes what the client is told; nil: the connection is closed
	// without an answer.
	Answer Answer
}

// Answer makes the reply to a command from the server's own, which is nil if
// the server was not asked.
type Answer func(own bson.Raw) bson.D

// Labels that MongoDB gives to errors.
const (
	RetryableWrite    = "RetryableWriteError"
	NoWritesPerformed = "NoWritesPerformed"
)

// Refuse answers with an error instead of a result.
func Refuse(code int32, name string, labels ...string) Answer {
	return func(bson.Raw) bson.D {
		return withLabels(bson.D{
			{Key: "ok", Value: 0.0},
			{Key: "errmsg", Value: fmt.Sprintf("%s, by order of the test", name)},
			{Key: "code", Value: code},
			{Key: "codeName", Value: name},
		}, labels)
	}
}

// Unconfirmed adds a write concern error to the server's own answer: the
// command was carried out, and no majority is known to have it.
func Unconfirmed(code int32, name string, labels ...string) Answer {
	return func(own bson.Raw) bson.D {
		if own == nil {
			panic("opmsg: Unconfirmed needs Done: it is about something that happened")
		}
		return withLabels(append(document(own), bson.E{Key: "writeConcernError", Value: bson.D{
			{Key: "code", Value: code},
			{Key: "codeName", Value: name},
			{Key: "errmsg", Value: fmt.Sprintf("%s, by order of the test", name)},
		}}), labels)
	}
}

func withLabels(d bson.D, labels []string) bson.D {
	if len(labels) > 0 {
		d = append(d, bson.E{Key: "errorLabels", Value: labels})
	}
	return d
}

// document returns the fields of a document, values unread.
func document(raw bson.Raw) bson.D {
	elements, _ := raw.Elements() // it was validated
	d := make(bson.D, 0, len(elements)+1)
	for _, e := range elements {
		d = append(d, bson.E{Key: e.Key(), Value: e.Value()})
	}
	return d
}
