//go:build !race && unix

package degraded_test

var buildFlags []string
