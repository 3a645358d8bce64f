package main

import (
	"context"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

// beWorker makes the test binary the worker itself.
const beWorker = "TOKENBUS_TEST_BE_WORKER"

func TestMain(m *testing.M) {
	worker := func() { os.Exit(osApp().run(context.Background(), os.Args)) }
	if os.Getenv(beWorker) != "" {
		worker()
	}
	testscript.Main(m, map[string]func(){"worker": worker})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script"})
}

// noLeaks checks at the very end of the test that its goroutines have ended.
// It is to be called first.
func noLeaks(t *testing.T) {
	t.Helper()
	others := goleak.IgnoreCurrent() // servers that tests of the process share
	t.Cleanup(func() { goleak.VerifyNone(t, others) })
}
