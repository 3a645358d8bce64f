package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/tokenbus/tokenbus/events"
)

const defaultURL = "nats://127.0.0.1:4222"

// option is a setting that every command takes: a flag and its environment
// variable, the same as the worker's.
type option struct {
	name, value, arg, usage string
}

func (o option) env() string {
	return "TOKENBUS_" + strings.ToUpper(strings.ReplaceAll(o.name, "-", "_"))
}

func options() []option {
	return []option{
		{"nats-url", defaultURL, "URL", "the workers' NATS servers, comma-separated"},
		{"nats-nkey", "", "FILE", "NKey seed file; default: operator.nk in a worker's data folder, for token client.nk"},
		{"nats-creds", "", "FILE", "credentials file (JWT and seed) instead of an NKey"},
		{"nats-ca", "", "FILE", "certificate authority of the server"},
		{"nats-cert", "", "FILE", "client certificate"},
		{"nats-key", "", "FILE", "private key of --nats-cert"},
		{"subject-prefix", events.DefaultPrefix, "PREFIX", "first part of every subject"},
		{"data-dir", "./data", "DIR", "a worker's data folder, where keys are looked for"},
	}
}

func globalFlags() []cli.Flag {
	flags := []cli.Flag{&cli.StringFlag{Name: "output", Value: "text"}}
	for _, o := range options() {
		flags = append(flags, &cli.StringFlag{Name: o.name, Value: o.value})
	}
	return flags
}

func writeOptions(w io.Writer) {
	fmt.Fprint(w, "\nOptions of every command, with the environment variable in brackets:\n")
	fmt.Fprint(w, "  --output FORMAT\n        text or json (default: text)\n")
	for _, o := range options() {
		fmt.Fprintf(w, "  --%s %s\n        %s", o.name, o.arg, o.usage)
		if o.value != "" {
			fmt.Fprintf(w, " (default: %s)", o.value)
		}
		fmt.Fprintf(w, " [$%s]\n", o.env())
	}
}

// config is what the options of every command say, checked.
type config struct {
	urls     []string
	urlsEnv  bool   // from the environment, where nobody may remember it
	nkey     string // as given; "" means that one is looked for
	creds    string
	ca       string
	cert     string
	key      string
	dataDir  string
	subjects events.Subjects
}

// config reads the options from the command line, else from the environment.
// The error joins every problem there is.
func (a app) config(cmd *cli.Command) (config, error) {
	var problems []error
	values, fromEnv := map[string]string{}, map[string]bool{}
	wrong := func(name, text string) {
		o := option{name: name}
		problems = append(problems, fmt.Errorf("--%s (%s): %s", name, o.env(), text))
	}
	for _, o := range options() {
		v := o.value
		byEnv := false
		if cmd.IsSet(o.name) {
			v = cmd.String(o.name)
		} else if e, ok := a.env(o.env()); ok && e != "" {
			v, byEnv = e, true
		}
		values[o.name], fromEnv[o.name] = v, byEnv
	}
	c := config{
		nkey: values["nats-nkey"], creds: values["nats-creds"], ca: values["nats-ca"], cert: values["nats-cert"], key: values["nats-key"],
		dataDir: values["data-dir"], urlsEnv: fromEnv["nats-url"],
	}
	var err error
	if c.urls, err = readURLs(values["nats-url"]); err != nil {
		wrong("nats-url", err.Error())
	}
	if c.subjects, err = events.NewSubjects(values["subject-prefix"]); err != nil {
		wrong("subject-prefix", fmt.Sprintf("%q: want parts of A-Z, a-z, 0-9, _ and -, joined by dots", values["subject-prefix"]))
	}
	for _, name := range []string{"nats-nkey", "nats-creds", "nats-ca", "nats-cert", "nats-key"} {
		if err := readable(values[name]); err != nil {
			wrong(name, fmt.Sprintf("%q: %v", values[name], err))
		}
	}
	if c.nkey != "" && c.creds != "" {
		wrong("nats-nkey", "excludes --nats-creds; give one of the two")
	}
	if (c.cert == "") != (c.key == "") {
		wrong("nats-cert", "goes together with --nats-key; give both or neither")
	}
	if err := errors.Join(problems...); err != nil {
		return config{}, &usageError{err}
	}
	return c, nil
}

// readURLs returns the servers that text names. What a worker calls embedded
// listens at the default address.
func readURLs(text string) ([]string, error) {
	if text == "embedded" {
		text = defaultURL
	}
	urls := strings.Split(text, ",")
	for i, one := range urls {
		urls[i] = strings.TrimSpace(one)
		u, err := url.Parse(urls[i])
		if err != nil || u.Host == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) {
			return nil, errors.New("want nats://host:port, several separated by commas")
		}
	}
	return urls, nil
}

// readable reports why a file can't be read; "" is no file and fine.
func readable(path string) error {
	if path == "" {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return plain(err)
	}
	if info.IsDir() {
		return errors.New("is a folder; want a file")
	}
	return nil
}
