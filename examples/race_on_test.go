//go:build unix && race

package examples_test

// buildFlags make the programs race-checked as the tests are.
var buildFlags = []string{"-race"}
