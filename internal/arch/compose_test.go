package arch_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// TestCompose holds the compose file against what it is to be: images by exact
// version, a health check for each service that stays, and no setting of a
// worker that the worker doesn't have.
func TestCompose(t *testing.T) {
	data, err := os.ReadFile("../../docker-compose.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Services map[string]struct {
			Image       string
			Build       any
			Restart     string
			Profiles    []string
			Healthcheck map[string]any
			Environment map[string]string
		}
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	options, err := os.ReadFile("../../cmd/worker/options.go")
	if err != nil {
		t.Fatal(err)
	}
	exact := regexp.MustCompile(`^[a-z]+:\d+\.\d+\.\d+(-[a-z]+)?$`)
	if len(file.Services) == 0 {
		t.Fatal("no services")
	}
	for name, s := range file.Services {
		if s.Image != "tokenbus:dev" && !exact.MatchString(s.Image) {
			t.Errorf("%s: image %q is not of an exact version", name, s.Image)
		}
		if s.Restart != "no" && len(s.Profiles) == 0 && s.Healthcheck["test"] == nil {
			t.Errorf("%s stays and has no health check", name)
		}
		for variable := range s.Environment {
			flag := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(variable, "TOKENBUS_")), "_", "-")
			if !strings.Contains(string(options), `"`+flag+`"`) {
				t.Errorf("%s: %s is no setting of a worker", name, variable)
			}
		}
	}
}
