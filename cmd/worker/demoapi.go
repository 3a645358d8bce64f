package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/tokenbus/tokenbus/bus"
)

// maxRevocation bounds the body of a revocation, in bytes.
const maxRevocation = 64 << 10

// api returns what the demo's OAuth server serves: its token endpoint, userinfo
// as the API to call, and a revocation endpoint (RFC 7009) for access tokens,
// so that one can be had that an API refuses before its time.
func (d *demo) api() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", d.oauth)
	mux.HandleFunc("POST /revoke", func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxRevocation)
		token := r.PostFormValue("token")
		if token == "" {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"error":"invalid_request"}`))
			return
		}
		if id, ok := d.oauth.Introspect(token); ok {
			d.oauth.EndAccess(id)
			d.story.tell(magenta, "oauth", "somebody revokes the access tokens of %s: userinfo takes them no more", id)
		} // else it does nothing any more, which is what was asked for
	})
	return mux
}

// envMark is the beginning of the file that --env-file names.
const envMark = "# tokenbus demo: "

// envFile is a file that can be written, and that is nobody else's: the demo
// removes it at its end.
func (r *reader) envFile() string {
	const name = "env-file"
	path := r.get(name)
	if path == "" {
		return ""
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || !info.IsDir() {
		r.wrong(name, path, "its folder is missing; make it, or name a file elsewhere")
		return path
	}
	text, err := os.ReadFile(path)
	if !errors.Is(err, fs.ErrNotExist) && !strings.HasPrefix(string(text), envMark) {
		r.wrong(name, path, "is there already, and not of a demo; name a file that may go when the demo ends")
	}
	return path
}

// writeEnvFile writes what other programs need to take part, for a shell to
// read. It is there whole or not at all.
func (d *demo) writeEnvFile() error {
	server := d.workers[0].server
	text := fmt.Sprintf(envMark+"its NATS server, the key of a gateway, its API (/userinfo, /revoke)\n"+
		"export TOKENBUS_NATS_URL=%s\nexport TOKENBUS_NATS_NKEY=%s\nexport TOKENBUS_DEMO_API=%s\n",
		shellWord(server.URL()), shellWord(server.KeyFile(bus.RoleClient)), shellWord(d.url))
	fresh := d.cfg.EnvFile + ".new"
	err := os.WriteFile(fresh, []byte(text), 0o600)
	if err == nil {
		err = os.Rename(fresh, d.cfg.EnvFile)
	}
	if err != nil {
		return fmt.Errorf("write --env-file: %w", err)
	}
	d.story.tell(dim, "demo", "what other programs need is in %s until the demo ends", d.cfg.EnvFile)
	return nil
}

// shellWord quotes text for a POSIX shell.
func shellWord(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
