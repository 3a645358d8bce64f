//go:build !unix

package spool

// syncDir does nothing: here names are durable with the file, or can't be made so.
func syncDir(string) error { return nil }
