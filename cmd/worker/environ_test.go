package main

import (
	"slices"
	"testing"
)

func TestUnknownVariables(t *testing.T) {
	var known []string
	for _, o := range runOptions() {
		known = append(known, o.env()+"=x")
	}
	known = append(known,
		"TOKENBUS_GEMINI_CLIENT_SECRET=x", "TOKENBUS_ANTIGRAVITY_CLIENT_SECRET=x", "TOKENBUS_DEMO_API=x", "TOKENBUS_TEST_REQUIRE=1", "TOKENBUS_BENCH=full",
		"PATH=/bin", "MY_TOKENBUS_X=1", "TOKENBUS=1", "TOKENBUS_EMPTY=",
		// A service of Kubernetes, and a pod beside it.
		"TOKENBUS_SERVICE_HOST=10.0.0.1", "TOKENBUS_SERVICE_PORT=4222", "TOKENBUS_WORKER_SERVICE_PORT_NATS=4222", "TOKENBUS_PORT=tcp://10.0.0.1:4222",
		"TOKENBUS_PORT_4222_TCP=tcp://10.0.0.1:4222", "TOKENBUS_PORT_4222_TCP_PROTO=tcp", "TOKENBUS_PORT_4222_TCP_PORT=4222", "TOKENBUS_PORT_4222_TCP_ADDR=10.0.0.1")
	if got := unknownVariables(known); got != nil {
		t.Errorf("calls unknown what is known: %v", got)
	}
	got := unknownVariables(append(known, "TOKENBUS_STORE=mongodb://u:hunter2@h/db?X_SERVICE_HOST=1", "TOKENBUS_HTTP_PORT=9464", "TOKENBUS_min_ttl=1m"))
	if want := []string{"TOKENBUS_HTTP_PORT", "TOKENBUS_STORE", "TOKENBUS_min_ttl"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
