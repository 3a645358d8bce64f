package bus

import (
	"strings"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/tokenbus/tokenbus/events"
)

// Role is what a connection to the embedded server may do.
type Role string

// The roles.
const (
	RoleWorker   Role = "worker"   // everything of tokenbus
	RoleOperator Role = "operator" // admin verbs, events, discovery, news of an external change
	RoleClient   Role = "client"   // token requests, bumps and status
)

// Roles returns all roles.
func Roles() []Role { return []Role{RoleWorker, RoleOperator, RoleClient} }

// InboxPrefix returns the inbox prefix of the role: replies to a connection of
// the role go to subjects under it, and no other role may listen there.
func InboxPrefix(role Role) string { return "_INBOX_" + string(role) }

// permissions returns what the embedded server allows the role.
func permissions(role Role, subjects events.Subjects) *server.Permissions {
	all := ownPrefix(subjects) + ">"
	inbox := InboxPrefix(role) + ".>"
	// The last bump of every account, also by the thousand: both forms of
	// JetStream's direct get, on this one stream, and what its libraries ask
	// first. No consumers: those could send what is in the stream anywhere.
	catchUp := []string{
		"$JS.API.STREAM.INFO." + events.StreamBumps,
		"$JS.API.DIRECT.GET." + events.StreamBumps,
		"$JS.API.DIRECT.GET." + events.StreamBumps + "." + subjects.AllBumps(),
	}
	discovery := []string{"$SRV.PING", "$SRV.PING.>", "$SRV.INFO", "$SRV.INFO.>", "$SRV.STATS", "$SRV.STATS.>"}

	var publish, subscribe []string
	switch role {
	case RoleWorker:
		publish = append(discovery, all, "$JS.API.>", "$JS.ACK.>", "$JS.FC.>", "$KV.>")
		for _, r := range Roles() {
			publish = append(publish, InboxPrefix(r)+".>")
		}
		subscribe = []string{all, "$SRV.>"}
	case RoleOperator:
		publish = append(discovery, subjects.Admin(">"), subjects.AllRefreshed()) // a login tool tells of what it wrote
		publish = append(publish, catchUp...)
		subscribe = []string{subjects.AllRefreshed(), subjects.AllBumps(), subjects.AllStatus()}
	case RoleClient:
		publish = append(catchUp, subjects.AllRequests())
		subscribe = []string{subjects.AllBumps(), subjects.AllStatus()}
	}
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: publish},
		Subscribe: &server.SubjectPermission{Allow: append(subscribe, inbox)},
	}
}

// ownPrefix returns what every subject of the contract begins with.
func ownPrefix(subjects events.Subjects) string {
	return strings.TrimSuffix(subjects.AllRequests(), "request.>")
}
