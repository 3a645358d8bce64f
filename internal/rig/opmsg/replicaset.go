package opmsg

import (
	"strings"
	"sync"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// replicaSet makes a standalone server look like the primary of a replica set
// of one, so that drivers use retryable writes. As MongoDB does it remembers
// the writes of a session by their number, and answers the repeat of one that
// was carried out without doing it again.
type replicaSet struct {
	name, addr string

	mu   sync.Mutex // guards done
	done map[string]bson.Raw
}

// hello rewrites the server's answer to a handshake or a check.
func (r *replicaSet) hello(own bson.Raw) bson.D {
	var d bson.D
	for _, e := range document(own) {
		switch strings.ToLower(e.Key) {
		case "setname", "hosts", "primary", "me", "ismaster", "iswritableprimary", "secondary", "logicalsessiontimeoutminutes":
		default:
			d = append(d, e)
		}
	}
	return append(d,
		bson.E{Key: "setName", Value: r.name},
		bson.E{Key: "setVersion", Value: int32(1)},
		bson.E{Key: "hosts", Value: bson.A{r.addr}},
		bson.E{Key: "primary", Value: r.addr},
		bson.E{Key: "me", Value: r.addr},
		bson.E{Key: "ismaster", Value: true},
		bson.E{Key: "isWritablePrimary", Value: true},
		bson.E{Key: "secondary", Value: false},
		bson.E{Key: "logicalSessionTimeoutMinutes", Value: int32(30)},
	)
}

// remembered returns the answer to a write that was carried out before; nil
// for none.
func (r *replicaSet) remembered(c Command) bson.Raw {
	id := statement(c)
	if id == "" {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.done[id]
}

// remember keeps the answer to a write that changed something: that alone is
// what MongoDB's own memory of transactions has.
func (r *replicaSet) remember(c Command, answer bson.Raw) {
	id := statement(c)
	n, _ := answer.Lookup("n").AsInt64OK()
	if last, ok := answer.Lookup("lastErrorObject").DocumentOK(); ok {
		n, _ = last.Lookup("n").AsInt64OK()
	}
	_, refused := answer.Lookup("writeErrors").ArrayOK()
	if id == "" || n == 0 || refused {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done[id] = answer
}

// statement names a retryable write: session and number; "" for what is none.
func statement(c Command) string {
	number, err := c.Body.LookupErr("txnNumber")
	if err != nil {
		return ""
	}
	return c.Body.Lookup("lsid").String() + " " + number.String()
}
