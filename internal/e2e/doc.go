// Package e2e tests the programs as their users have them: real worker and
// tokenctl processes, built with the race detector, against the authorization
// server of a third party, and the commands of the README.
package e2e
