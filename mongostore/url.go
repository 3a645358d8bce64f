package mongostore

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"
)

// allowedOptions are the options that a URL may have, in lower case. Of those
// in fixedOptions only the named values are taken.
var allowedOptions = []string{
	"appname", "authmechanism", "authmechanismproperties", "authsource", "compressors",
	"connecttimeoutms", "directconnection", "heartbeatfrequencyms", "loadbalanced",
	"localthresholdms", "maxconnecting", "maxidletimems", "maxpoolsize", "minpoolsize",
	"replicaset", "retryreads", "retrywrites", "servermonitoringmode",
	"serverselectiontimeoutms", "srvmaxhosts", "srvservicename", "ssl", "timeoutms", "tls",
	"tlscafile", "tlscertificatefile", "tlscertificatekeyfile",
	"tlscertificatekeyfilepassword", "tlsdisablecertificaterevocationcheck",
	"tlsdisableocspendpointcheck", "tlsinsecure", "tlsprivatekeyfile",
	"zlibcompressionlevel", "zstdcompressionlevel",
}

var fixedOptions = map[string][]string{
	"w":                {"majority"},
	"journal":          {"true"},
	"readpreference":   {"primary"},
	"readconcernlevel": {"majority", "linearizable"},
}

// secretOptions are those whose values no error may show.
var secretOptions = []string{"authmechanismproperties", "tlscertificatekeyfilepassword"}

// ownDatabases are MongoDB's own.
var ownDatabases = []string{"admin", "config", "local"}

const hidden = "***" // in the place of a secret

// address is a URL that has been checked.
type address struct {
	shown       string // the URL without its secrets, for errors
	database    string
	user        string // "" without a login
	authSource  string
	replicaSet  string
	tls         bool
	readConcern *readconcern.ReadConcern
	timeout     time.Duration // of the option timeoutMS; 0 if it isn't there
	options     *options.ClientOptions
}

// parseURL checks the URL. Its errors show no password.
func parseURL(raw string) (address, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok || scheme != "mongodb" && scheme != "mongodb+srv" {
		return address{}, wrongURL("", errors.New("want mongodb://host/database or mongodb+srv://host/database"))
	}
	user := ""
	if i := strings.LastIndex(rest, "@"); i >= 0 {
		user, rest = rest[:i], rest[i+1:]
	}
	rest, query, _ := strings.Cut(rest, "?")
	hosts, database, _ := strings.Cut(rest, "/")
	a := address{database: database, readConcern: readconcern.Majority()}

	var problems []error
	if hosts == "" {
		problems = append(problems, errors.New("it names no host"))
	}
	switch {
	case database == "":
		problems = append(problems, errors.New("it names no database: want "+scheme+"://host/database"))
	case strings.ContainsAny(database, "/\\. \"$\x00") || len(database) > 63:
		problems = append(problems, errors.New("the database's name may contain none of / \\ . \" $ and no space, and have 63 characters at most"))
	case slices.Contains(ownDatabases, strings.ToLower(database)):
		problems = append(problems, fmt.Errorf("the database %q is MongoDB's own: name another (users that are in it: authSource=%s)", database, database))
	}
	pairs, err := a.checkQuery(query)
	problems = append(problems, err)
	who := ""
	if user != "" {
		who = hidden + "@"
	}
	a.shown = join(scheme, who, shownHosts(hosts, user != ""), database, pairs)
	if err := errors.Join(problems...); err != nil {
		return address{}, wrongURL(a.shown, err)
	}

	a.options = options.Client().ApplyURI(raw)
	if a.options.Validate() == nil {
		a.describe(scheme, hosts, pairs)
		return a, nil
	}
	// What the driver says may quote the URL: ask it again, without secrets.
	asked := slices.DeleteFunc(slices.Clone(pairs), func(pair string) bool {
		return strings.HasPrefix(strings.ToLower(pair), "authmechanismproperties=")
	})
	err = options.Client().ApplyURI(join(scheme, placeholder(user), hosts, database, asked)).Validate()
	switch {
	case err == nil:
		err = errors.New("user and password must be percent-encoded")
	case user == "" && strings.Contains(hosts, ":"): // it may be user:password
		err = errors.New("its host or an option is malformed: want mongodb://user:password@host:port/database")
	case is[*net.DNSError](err):
		return address{}, fmt.Errorf("MongoDB URL %q: %w", a.shown, err)
	}
	return address{}, wrongURL(a.shown, err)
}

// wrongURL is a final error about the URL; shown is what may be shown of it.
func wrongURL(shown string, err error) error {
	text := "MongoDB URL"
	if shown != "" {
		text += fmt.Sprintf(" %q", shown)
	}
	return &failure{text: text + ": " + err.Error(), kind: ErrConfig, cause: err}
}

// describe notes what errors tell of a URL that the driver takes.
func (a *address) describe(scheme, hosts string, pairs []string) {
	if a.options.ReplicaSet != nil {
		a.replicaSet = *a.options.ReplicaSet
	}
	a.tls = a.options.TLSConfig != nil
	who := ""
	if auth := a.options.Auth; auth != nil {
		a.user, a.authSource = auth.Username, auth.AuthSource
		who = url.User(a.user).String()
		if auth.PasswordSet {
			who += ":" + hidden
		}
		who += "@"
	}
	a.shown = join(scheme, who, hosts, a.database, pairs)
}

func join(scheme, who, hosts, database string, pairs []string) string {
	u := scheme + "://" + who + hosts + "/" + database
	if len(pairs) > 0 {
		u += "?" + strings.Join(pairs, "&")
	}
	return u
}

// shownHosts returns the hosts as they may be shown. In a URL without a user
// what stands for a port and is none may be a password.
func shownHosts(hosts string, hasUser bool) string {
	if hasUser {
		return hosts
	}
	list := strings.Split(hosts, ",")
	for i, h := range list {
		name, port, ok := strings.Cut(h, ":")
		if _, err := strconv.ParseUint(port, 10, 16); ok && err != nil && !strings.HasPrefix(h, "[") {
			list[i] = name + ":" + hidden
		}
	}
	return strings.Join(list, ",")
}

// checkQuery reads the options and returns them as they may be shown.
func (a *address) checkQuery(query string) (shown []string, _ error) {
	var problems []error
	for pair := range strings.FieldsFuncSeq(query, func(r rune) bool { return r == '&' }) {
		name, value, _ := strings.Cut(pair, "=")
		lower := strings.ToLower(name)
		fixed, isFixed := fixedOptions[lower]
		switch {
		case isFixed && !slices.Contains(fixed, strings.ToLower(value)):
			problems = append(problems, fmt.Errorf("option %s must be %s", name, strings.Join(fixed, " or ")))
		case !isFixed && !slices.Contains(allowedOptions, lower):
			problems = append(problems, fmt.Errorf("unknown option %q: correct its name or take it out", name))
			pair = name + "=" + hidden
		case lower == "readconcernlevel" && strings.EqualFold(value, "linearizable"):
			a.readConcern = readconcern.Linearizable()
		case lower == "timeoutms":
			timeout, err := time.ParseDuration(value + "ms")
			if err != nil || timeout <= 0 {
				problems = append(problems, errors.New("option timeoutMS must be a number of milliseconds above 0"))
			}
			a.timeout = timeout
		case slices.Contains(secretOptions, lower):
			pair = name + "=" + hidden
		}
		shown = append(shown, pair)
	}
	return shown, errors.Join(problems...)
}

// placeholder returns user information of the same shape.
func placeholder(user string) string {
	switch {
	case user == "":
		return ""
	case strings.Contains(user, ":"):
		return url.UserPassword("user", "password").String() + "@"
	default:
		return "user@"
	}
}
