package main

import (
	"strings"
	"testing"
)

func TestP8RedactURL(t *testing.T) {
	for v, want := range map[string]string{
		"mongodb://h:1/db":                          "mongodb://h:1/db",
		"h:1,h:2":                                   "h:1,h:2",
		"mongodb://user:hunter2@h/db":               "mongodb://[redacted]@h/db",
		"mongodb://user:hunter2@h/db?key=hunter2":   "mongodb://[redacted]@h/db?[redacted]",
		"mongodb://h/db?key=hunter2":                "mongodb://h/db?[redacted]",
		"mongo://user:hunter2?x@h/db":               "mongo://[redacted]",
		"mongo://user:?hunter2@h/db":                "mongo://[redacted]",
		"mongo://h/db?key=x@hunter2":                "mongo://[redacted]",
		"mongo://user:hun@ter2@h/db":                "mongo://[redacted]@h/db",
		"mongo://user:hunter2/x@h/db":               "mongo://[redacted]@h/db",
		"user:hunter2@h":                            "[redacted]@h",
		"user:hunter2://x@h":                        "[redacted]@h",
		"nats://u:hunter2@a:1,nats://u:hunter2@b:1": "nats://[redacted]@b:1",
	} {
		if got := redactURL(v); got != want || strings.Contains(got, "hunter2") {
			t.Errorf("%s: got %s, want %s", v, got, want)
		}
	}
}
