//go:build !tokenbus_crash

package failpoint

// At does nothing: this program is built without the tag tokenbus_crash.
func At(string) {}
