package oauth

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/tokenbus/tokenbus/account"
)

// fieldParser reads the fields of one platform into d.
type fieldParser struct {
	*fileParser
	prefix     string
	d          Definition
	lines      map[string]int  // of the fields that the file gives
	bad        map[string]bool // fields with a problem
	secretEnv  string
	secretFile string
}

func (f *fieldParser) wrong(n *yaml.Node, field, format string, args ...any) {
	if f.bad == nil {
		f.bad = map[string]bool{}
	}
	f.bad[field] = true
	f.problem(n.Line, "%s.%s: %s", f.prefix, field, fmt.Sprintf(format, args...))
}

func (f *fieldParser) field(name, n *yaml.Node) {
	d := &f.d
	field := name.Value
	switch field {
	case "token_url":
		f.text(field, n, &d.TokenURL)
	case "client_id":
		f.text(field, n, &d.ClientID)
	case "client_secret_env":
		f.text(field, n, &f.secretEnv)
	case "client_secret_file":
		f.text(field, n, &f.secretFile)
	case "client_secret":
		f.wrong(name, field, "never in the file itself: use client_secret_env or client_secret_file")
	case "auth":
		f.text(field, n, (*string)(&d.Auth))
	case "encoding":
		f.text(field, n, (*string)(&d.Encoding))
	case "params":
		f.texts(field, n, &d.Params)
	case "headers":
		f.texts(field, n, &d.Headers)
	case "extra_fields":
		f.list(field, n, &d.ExtraFields)
	case "dead_grant_errors":
		f.list(field, n, &d.DeadGrantErrors)
	case "timeout":
		f.duration(field, n, &d.Timeout)
	case "reuse_grace":
		f.duration(field, n, &d.ReuseGrace)
	case "min_refresh_age":
		f.duration(field, n, &d.MinRefreshAge)
	case "refresh_at_least_every":
		f.duration(field, n, &d.RefreshAtLeastEvery)
	case "serve_while_refreshing":
		if n.ShortTag() != "!!bool" || n.Decode(&d.ServeWhileRefreshing) != nil {
			f.wrong(n, field, "want true or false")
		}
	case "max_concurrent":
		if n.ShortTag() != "!!int" || n.Decode(&d.MaxConcurrent) != nil {
			f.wrong(n, field, "want a whole number")
		}
	case "proxy_url":
		var s string
		f.text(field, n, &s)
		d.ProxyURL = account.NewSecret(s)
	default:
		f.problem(name.Line, "%s: %q: unknown field", f.prefix, clip(field))
	}
}

func (f *fieldParser) text(field string, n *yaml.Node, into *string) {
	if n.Kind != yaml.ScalarNode || null(n) || n.Value == "" {
		f.wrong(n, field, "want text")
		return
	}
	*into = n.Value
}

func (f *fieldParser) duration(field string, n *yaml.Node, into *time.Duration) {
	v, err := time.ParseDuration(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil {
		f.wrong(n, field, "want a duration such as 30s or 5m")
		return
	}
	*into = v
}

func (f *fieldParser) texts(field string, n *yaml.Node, into *map[string]string) {
	*into = map[string]string{}
	if null(n) {
		return
	}
	for key, value := range f.mapping(n, f.prefix+"."+field) {
		if value.Kind != yaml.ScalarNode || null(value) {
			f.wrong(value, field, "%q: want text", clip(key.Value))
			continue
		}
		(*into)[key.Value] = value.Value
	}
}

func (f *fieldParser) list(field string, n *yaml.Node, into *[]string) {
	*into = nil
	if n.Kind != yaml.SequenceNode {
		f.wrong(n, field, "want a list such as [a, b]")
		return
	}
	for _, item := range n.Content {
		item = resolve(item)
		if item.Kind != yaml.ScalarNode || null(item) || item.Value == "" {
			f.wrong(item, field, "want a list of names")
			return
		}
		*into = append(*into, item.Value)
	}
}

// envName is what an environment variable may be called. Something else may be
// a secret that was put there by mistake and is not quoted.
var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// secret reads the client secret that the file names.
func (f *fieldParser) secret() {
	var secret string
	var line int
	switch {
	case f.secretEnv != "" && f.secretFile != "":
		f.problem(f.lines["client_secret_file"], "%s: client_secret_env and client_secret_file exclude each other", f.prefix)
		return
	case f.secretEnv != "":
		line = f.lines["client_secret_env"]
		if !envName.MatchString(f.secretEnv) {
			f.problem(line, "%s.client_secret_env: want the name of an environment variable", f.prefix)
			return
		}
		if secret = f.getenv(f.secretEnv); secret == "" {
			f.problem(line, "%s.client_secret_env: the environment variable %s is not set", f.prefix, f.secretEnv)
			return
		}
		f.d.ClientSecretEnv = f.secretEnv
	case f.secretFile != "":
		line = f.lines["client_secret_file"]
		path := f.secretFile
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(f.name), path)
		}
		data, err := readRegular(path, maxSecretFile)
		if err != nil {
			f.problem(line, "%s.client_secret_file: %v", f.prefix, err)
			return
		}
		if secret = strings.TrimSpace(string(data)); secret == "" {
			f.problem(line, "%s.client_secret_file: the file is empty", f.prefix)
			return
		}
		f.d.ClientSecretEnv = ""
	default:
		return
	}
	f.d.ClientSecret = account.NewSecret(secret)
	if _, given := f.lines["auth"]; !given && f.d.Auth == AuthNone {
		f.d.Auth = AuthBody
	}
}
