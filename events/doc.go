// Package events is the wire contract of tokenbus: subjects, payloads, and how
// they are encoded and decoded. It knows no transport.
//
// Bodies are JSON in UTF-8; unknown fields are ignored and an empty request
// body means all defaults. Times are RFC 3339 in UTC, an expiry rounded down;
// durations are Go strings ("30s"). Only a token reply carries a secret.
package events
