//go:build race

package e2e_test

// buildFlags make the programs race-checked as the tests are.
var buildFlags = []string{"-race"}
