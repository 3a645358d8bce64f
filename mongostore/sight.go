package mongostore

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"go.mongodb.org/mongo-driver/v2/event"
)

// sight is what the driver sees of the deployment. A call that waited in vain
// for a server that takes it gets no more than "deadline exceeded": sight
// knows why.
type sight struct {
	mu       sync.Mutex // guards the rest
	topology event.TopologyDescription
	failures map[string]error  // of servers whose last check failed
	sets     map[string]string // the replica set that a server says it is of
}

// monitor returns what the driver tells it all. It may be called before the
// driver starts only.
func (v *sight) monitor() *event.ServerMonitor {
	v.failures, v.sets = make(map[string]error), make(map[string]string)
	return &event.ServerMonitor{
		ServerHeartbeatFailed: func(e *event.ServerHeartbeatFailedEvent) {
			v.mu.Lock()
			defer v.mu.Unlock()
			v.failures[host(e.ConnectionID)] = e.Failure
		},
		ServerHeartbeatSucceeded: func(e *event.ServerHeartbeatSucceededEvent) {
			v.mu.Lock()
			defer v.mu.Unlock()
			delete(v.failures, host(e.ConnectionID))
			v.sets[host(e.ConnectionID)] = e.Reply.SetName
		},
		TopologyDescriptionChanged: func(e *event.TopologyDescriptionChangedEvent) {
			v.mu.Lock()
			defer v.mu.Unlock()
			v.topology = e.NewDescription
		},
	}
}

// host returns the server of a connection: "host:port[-7]".
func host(connection string) string {
	h, _, _ := strings.Cut(connection, "[-")
	return h
}

// trouble says why no server takes our calls; "" if it sees no reason. Final
// is only what holds for every server.
func (v *sight) trouble(a address) (class, string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.topology.CompatibilityErr; err != nil {
		return misconfigured, fmt.Sprintf("MongoDB is too old (%v): it must be 4.4 or later; it is the one at %q", err, a.shown)
	}
	if v.topology.Kind == "ReplicaSetNoPrimary" && len(v.topology.Servers) == 0 {
		return misconfigured, v.otherSetLocked(a)
	}
	worst, texts := misconfigured, []string(nil)
	for _, s := range v.topology.Servers {
		h := s.Addr.String()
		err, failed := v.failures[h]
		if !failed {
			if v.topology.Kind == "ReplicaSetNoPrimary" {
				return noPrimary, "MongoDB has no primary at the moment: an election runs, or too few members of the replica set can be reached"
			}
			return other, ""
		}
		switch c := judge(err); c {
		case misconfigured:
			texts = append(texts, a.mismatch(h, err))
		case refused:
			worst = min(worst, refused)
			texts = append(texts, a.refusal(err))
		default:
			worst = min(worst, unreachable)
			texts = append(texts, a.silence(h, err))
		}
	}
	if len(texts) == 0 {
		return other, ""
	}
	text := strings.Join(texts, "; ")
	if worst == unreachable {
		text = "MongoDB is out of reach: " + text
	}
	return worst, text
}

// otherSetLocked says that no host of the URL is of the replica set that it
// names: the driver has forgotten them all and won't ask again.
func (v *sight) otherSetLocked(a address) string {
	var others []string
	for h, set := range v.sets {
		if set == "" {
			others = append(others, h+" is of none")
		} else {
			others = append(others, fmt.Sprintf("%s is of %q", h, set))
		}
	}
	slices.Sort(others)
	return fmt.Sprintf("no host is of the replica set %q (%s): correct replicaSet in %q", a.replicaSet, strings.Join(others, ", "), a.shown)
}
