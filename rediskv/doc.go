// Package rediskv keeps the shared cache and the leases in Redis.
//
// Both may be lost at any time: a Redis that is restarted empty, evicts keys
// or fails over to a replica that lags costs look-ups in the store and
// refreshes that notice each other late, and nothing else. Every step that
// compares and writes is one Lua script. The driver repeats nothing: a call
// whose outcome is unknown is an error.
//
// Keys are "<prefix>:cache:{<account>}" (a hash) and
// "<prefix>:lease:{<account>}" (a string), each with a time to live. All keys
// of an account are in one hash slot.
//
// A user needs +@read +@write +@scripting +@connection on ~<prefix>:*.
package rediskv
