//go:build race && unix

package degraded_test

// buildFlags make the programs race-checked as the tests are.
var buildFlags = []string{"-race"}
