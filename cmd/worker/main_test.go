package main

import (
	"context"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
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
