// Package failpoint names the points at which a crash is worth a test. In a
// program built with the tag tokenbus_crash, the one that TOKENBUS_CRASH_AT
// names kills the process, as kill -9 does; in every other program none does
// anything.
package failpoint
