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
	RoleOperator Role = "operator" // admin verbs, events, discovery
	RoleClient   Role = "client"   // token requests, bumps and status
)

// Roles returns all roles.
func Roles() []Role { return []Role{RoleWorker, RoleOperator, RoleClient} }

// InboxPrefix returns the inbox prefix of the role: replies to a connection of
// the role go to subjects under it, and no other role may listen there.
func InboxPrefix(role Role) string { return "_INBOX_" + string(role) }

// permissions returns what the embedded server allows the role. The server asks
// what may be published, and never where the answer goes: JetStream answers with
// rights of its own to whatever reply subject it is told. So a role that may not
// do everything publishes to no subject that JetStream answers: none of its API's,
// and none that a stream keeps. What workers answer is safe, see answerable.
func permissions(role Role, subjects events.Subjects) *server.Permissions {
	all := ownPrefix(subjects) + ">"
	inbox := InboxPrefix(role) + ".>"
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
		publish = append(discovery, subjects.Admin(">"), subjects.AllCatchUps())
		subscribe = []string{subjects.AllRefreshed(), subjects.AllBumps(), subjects.AllStatus()}
	case RoleClient:
		publish = []string{subjects.AllRequests(), subjects.AllCatchUps()}
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
