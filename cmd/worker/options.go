package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v3"
)

// option is one setting: a flag and its environment variable.
type option struct {
	name  string // of the flag, without the dashes
	value string // the default
	arg   string // what the help calls the value
	group string
	usage string
}

const envPrefix = "TOKENBUS_"

// env is the option's environment variable.
func (o option) env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(o.name, "-", "_"))
}

// The groups of the help.
const (
	groupNATS    = "NATS"
	groupStorage = "Storage and providers"
	groupTiming  = "Timing"
	groupHTTP    = "HTTP"
	groupLogs    = "Logs and identity"
)

// runOptions are the settings of a worker, in the order of the help.
func runOptions() []option {
	return []option{
		{"nats-url", "embedded", "URL", groupNATS, "nats://… (comma-separated), or embedded: a NATS server with JetStream inside this process, kept under --data-dir"},
		{"nats-listen", "127.0.0.1:4222", "ADDR", groupNATS, "where the embedded server listens; none: in-process only"},
		{"nats-auth", "nkey", "MODE", groupNATS, "of the embedded server: nkey (keys are made at the first start in <data-dir>/nats) or none"},
		{"nats-creds", "", "FILE", groupNATS, "credentials file (JWT and seed) for the server at --nats-url"},
		{"nats-nkey", "", "FILE", groupNATS, "NKey seed file for the server at --nats-url"},
		{"nats-ca", "", "FILE", groupNATS, "certificate authority of the server at --nats-url"},
		{"nats-cert", "", "FILE", groupNATS, "client certificate for the server at --nats-url"},
		{"nats-key", "", "FILE", groupNATS, "private key of --nats-cert"},
		{"nats-replicas", "auto", "N", groupNATS, "replicas of streams and buckets that are made, 1 to 5; auto: three in a cluster of three or more servers, else one"},
		{"nats-placement-tags", "", "TAGS", groupNATS, "tags of the NATS servers that streams and buckets are made on (comma-separated)"},
		{"subject-prefix", "tokenbus", "PREFIX", groupNATS, "first part of every subject"},

		{"store-url", "nats", "URL", groupStorage, "where accounts are kept: mongodb://host/database, or nats (a JetStream bucket)"},
		{"cache-url", "nats", "URL", groupStorage, "shared cache and leases: redis://…, rediss://… (one server; a Cluster with addr=; Sentinels with master_name=), or nats (JetStream buckets)"},
		{"l1-max-accounts", "200000", "N", groupStorage, "accounts that the worker's own cache holds, 1 or more; the least used make room for others, and are read from the shared cache again"},
		{"data-dir", "./data", "DIR", groupStorage, "embedded NATS, keyset, journal spool; one worker per folder"},
		{"keyset", "", "FILE", groupStorage, "the sealing keys of the fleet; made at the first start as <data-dir>/keyset.json with embedded NATS, required otherwise"},
		{"providers", "", "FILE", groupStorage, "YAML file of provider definitions, added to or overriding the built-in ones"},

		{"refresh-skew", "3m", "TIME", groupTiming, "a request starts a refresh this long before a token expires (at most a third of its lifetime)"},
		{"cache-skew", "5m", "TIME", groupTiming, "an entry of the shared cache ends this long before its token"},
		{"min-ttl", "30s", "TIME", groupTiming, "a token in a reply lives at least this much longer"},
		{"lease-ttl", "30s", "TIME", groupTiming, "how long a lease and a rotation's heartbeat last, 1s to 10m"},
		{"l1-max-age", "30s", "TIME", groupTiming, "an entry of the worker's own cache is checked against the shared version after this long"},
		{"refresh-ahead", "auto", "TIME", groupTiming, "proactive refresh begins this long before a token expires; auto: a third of its lifetime, at most 30m; off"},

		{"http-addr", "127.0.0.1:9464", "ADDR", groupHTTP, "/metrics, /healthz and /readyz; none turns them off"},
		{"pprof-addr", none, "ADDR", groupHTTP, "profiles of this process under /debug/pprof/, on a loopback address alone; none turns them off"},

		{"log-level", "info", "LEVEL", groupLogs, "debug, info, warn or error"},
		{"log-format", "auto", "FORMAT", groupLogs, "auto (text on a terminal, json elsewhere), text or json"},
		{"worker-id", "", "ID", groupLogs, "name of this worker in logs, events and rotation records (default: host-pid-random)"},
	}
}

// demoOptions are the settings of the demo, flags alone.
func demoOptions() []option {
	return []option{
		{"duration", "0", "TIME", "", "how long the demo runs; 0: until Ctrl-C"},
		{"token-ttl", "40s", "TIME", "", "lifetime of the access tokens, 2s to 1h"},
		{"workers", "2", "N", "", "how many workers, 1 to 16"},
		{"env-file", "", "FILE", "", "write here what other programs need to take part (. ./FILE); it goes when the demo ends"},
	}
}

func flagsOf(options []option, local bool) []cli.Flag {
	flags := make([]cli.Flag, 0, len(options))
	for _, o := range options {
		flags = append(flags, &cli.StringFlag{Name: o.name, Value: o.value, Usage: o.usage, Local: local})
	}
	return flags
}

// writeOptions writes the options for the help, by group.
func writeOptions(w io.Writer, options []option, withEnv bool) {
	group := ""
	for _, o := range options {
		if o.group != group {
			group = o.group
			fmt.Fprintf(w, "\n%s:\n", group)
		}
		usage := o.usage
		if o.value != "" {
			usage += " (default: " + o.value + ")"
		}
		fmt.Fprintf(w, "  --%s %s\n", o.name, o.arg)
		if withEnv {
			usage += " [$" + o.env() + "]"
		}
		for line := range wrap(usage, 70) {
			fmt.Fprintf(w, "        %s\n", line)
		}
	}
}

// wrap yields text in lines of about width characters, broken at spaces.
func wrap(text string, width int) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		line := ""
		for word := range strings.FieldsSeq(text) {
			if line != "" && len(line)+1+len(word) > width {
				if !yield(line) {
					return
				}
				line = ""
			}
			if line != "" {
				line += " "
			}
			line += word
		}
		if line != "" {
			yield(line)
		}
	}
}
