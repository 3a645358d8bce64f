package mongostore

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
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

// address is a URL that has been checked.
type address struct {
	database    string
	readConcern *readconcern.ReadConcern
	timeout     time.Duration // of the option timeoutMS; 0 if it isn't there
	options     *options.ClientOptions
}

// parseURL checks the URL. Its errors show neither user nor password.
func parseURL(raw string) (address, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok || scheme != "mongodb" && scheme != "mongodb+srv" {
		return address{}, errors.New("want mongodb://host/database or mongodb+srv://host/database")
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
	case strings.ContainsAny(database, "/\\. \"$\x00"):
		problems = append(problems, errors.New("the database's name may contain none of / \\ . \" $ and no space"))
	}
	shown, err := a.checkQuery(query)
	problems = append(problems, err)
	if err := errors.Join(problems...); err != nil {
		return address{}, err
	}

	a.options = options.Client().ApplyURI(raw)
	if a.options.Validate() == nil {
		return a, nil
	}
	// What the driver says may quote the URL: ask it again, without secrets.
	err = options.Client().ApplyURI(scheme + "://" + placeholder(user) + hosts + "/" + database + "?" + shown).Validate()
	switch {
	case err == nil:
		return address{}, errors.New("user and password must be percent-encoded")
	case user == "" && strings.Contains(hosts, ":"): // it may be user:password
		return address{}, errors.New("its host or an option is malformed: want mongodb://user:password@host:port/database")
	default:
		return address{}, err
	}
}

// checkQuery reads the options and returns them as they may be shown.
func (a *address) checkQuery(query string) (shown string, _ error) {
	var problems []error
	var pairs []string
	for pair := range strings.FieldsFuncSeq(query, func(r rune) bool { return r == '&' }) {
		name, value, _ := strings.Cut(pair, "=")
		lower := strings.ToLower(name)
		fixed, isFixed := fixedOptions[lower]
		switch {
		case isFixed && !slices.Contains(fixed, strings.ToLower(value)):
			problems = append(problems, fmt.Errorf("option %s must be %s", name, strings.Join(fixed, " or ")))
		case !isFixed && !slices.Contains(allowedOptions, lower):
			problems = append(problems, fmt.Errorf("unknown option %q", name))
		case lower == "readconcernlevel" && strings.EqualFold(value, "linearizable"):
			a.readConcern = readconcern.Linearizable()
		case lower == "timeoutms":
			timeout, err := time.ParseDuration(value + "ms")
			if err != nil || timeout <= 0 {
				problems = append(problems, errors.New("option timeoutMS must be a number of milliseconds above 0"))
			}
			a.timeout = timeout
		case lower == "authmechanismproperties":
			continue // a secret whose shape the driver checks
		case slices.Contains(secretOptions, lower):
			pair = name + "=x"
		}
		pairs = append(pairs, pair)
	}
	return strings.Join(pairs, "&"), errors.Join(problems...)
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
