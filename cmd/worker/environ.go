package main

import (
	"regexp"
	"slices"
	"strings"

	"github.com/tokenbus/tokenbus/oauth"
)

// otherVariables are variables with the prefix that are no settings: of the
// demo's --env-file, of tests, of builds for tests. tokenctl's and the examples'
// are settings of the worker too.
var otherVariables = []string{
	"TOKENBUS_DEMO_API", "TOKENBUS_TEST_REQUIRE", "TOKENBUS_TEST_BE_WORKER", "TOKENBUS_BENCH", "TOKENBUS_CRASH_AT", "TOKENBUS_CLOCK_OFFSET",
}

// ofKubernetes are variables that it sets for a service named tokenbus, or
// tokenbus-something.
var ofKubernetes = regexp.MustCompile(`^[A-Z0-9_]+(_SERVICE_(HOST|PORT)(_[A-Z0-9_]+)?=|_PORT(_[0-9]+_[A-Z]+)?=[a-z]+://|_PORT_[0-9]+_[A-Z]+_(PROTO|PORT|ADDR)=)`)

// unknownVariables returns the names of the variables in environ, pairs such as
// [os.Environ] has, that begin as settings do and that nothing is known to read.
// An empty one counts as not set.
func unknownVariables(environ []string) []string {
	known := slices.Clone(otherVariables)
	for _, o := range runOptions() {
		known = append(known, o.env())
	}
	for _, d := range oauth.Builtin() { // also where a provider file takes the secret from elsewhere
		known = append(known, d.ClientSecretEnv)
	}
	var unknown []string
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(name, envPrefix) && value != "" && !slices.Contains(known, name) && !ofKubernetes.MatchString(pair) {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	return unknown
}

// warnOfUnknown says which variables nobody reads, by their names alone. secrets
// are those that the provider file names.
func (w *worker) warnOfUnknown(secrets []string) {
	unknown := slices.DeleteFunc(slices.Clone(w.cfg.Unknown), func(name string) bool { return slices.Contains(secrets, name) })
	if len(unknown) > 0 {
		w.log.Warn("environment variables that look like settings and are none; see worker --help for the names", "variables", unknown)
	}
}
