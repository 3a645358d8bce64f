package main

import (
	"encoding/base64"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"testing"

	"github.com/nats-io/nkeys"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tokenbus/tokenbus/bus"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tokenctl": main})
}

// TestScripts runs the scripts in testdata/script. Each has a fleet of its own
// whose server keeps its keys in $WORK/data, where tokenctl finds them; every
// token in it holds the word SECRET, or is a JWT.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			f, err := startFleet(env.WorkDir+"/data", bus.AuthNKey)
			if err != nil {
				return err
			}
			env.Defer(f.stop)
			open, err := startFleet(env.WorkDir+"/open", bus.AuthNone)
			if err != nil {
				return err
			}
			env.Defer(open.stop)
			env.Setenv("TOKENBUS_NATS_URL", f.server.URL())
			env.Setenv("OPEN_URL", open.server.URL())
			env.Setenv("HOME", env.WorkDir)
			pair, err := nkeys.CreateUser()
			if err != nil {
				return err
			}
			seed, err := pair.Seed()
			if err != nil {
				return err
			}
			return os.WriteFile(env.WorkDir+"/foreign.nk", seed, 0o600)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"code": code, "expand": expand, "large": large,
		},
	})
}

// code N COMMAND… runs the command, which must exit with N.
func code(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

var jwtPattern = regexp.MustCompile(`jwt\((.*?)\)`)

// expand FILE… writes JWTs into files, for "jwt(CLAIMS)".
func expand(ts *testscript.TestScript, _ bool, args []string) {
	encode := base64.RawURLEncoding.EncodeToString
	for _, name := range args {
		text := jwtPattern.ReplaceAllStringFunc(ts.ReadFile(name), func(s string) string {
			return encode([]byte(`{"alg":"none"}`)) + "." + encode([]byte(jwtPattern.FindStringSubmatch(s)[1])) + "." + encode([]byte("no signature"))
		})
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
	}
}

// large FILE writes a file that is too large for a login.
func large(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), nil, 0o600))
	ts.Check(os.Truncate(ts.MkAbs(args[0]), maxLoginFile+1)) // takes no room
}
