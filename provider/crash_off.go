//go:build !tokenbus_crash

package provider

// crashAt does nothing outside of the crash suite's build.
func crashAt(string) {}
