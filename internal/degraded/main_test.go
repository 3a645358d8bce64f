//go:build unix

package degraded_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// fleetsAtOnce is how many fleets run at once: they mostly wait.
const fleetsAtOnce = "4"

var programs string // the folder with the worker, once it is built

// build builds the worker, race-checked if the tests are, once.
var build = sync.OnceValues(func() (path string, err error) {
	path = filepath.Join(programs, "worker")
	args := append([]string{"build", "-o", path}, buildFlags...)
	out, err := exec.Command("go", append(args, "github.com/tokenbus/tokenbus/cmd/worker")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build worker: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f != nil {
		_ = f.Value.Set(fleetsAtOnce)
	}
	var err error
	if programs, err = os.MkdirTemp("", "tokenbus-degraded-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if code == 0 {
		// A link of this toxiproxy whose reader went away with data in it never
		// ends.
		err := goleak.Find(
			goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*ToxicStub).Run"),
			goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).read"),
			goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).write"),
		)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	_ = os.RemoveAll(programs)
	os.Exit(code)
}
