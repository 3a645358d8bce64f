// Package arch holds the tests of the architecture: which package may import
// which, and what every package must have. It has no other code.
package arch
