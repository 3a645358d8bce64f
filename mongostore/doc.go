// Package mongostore keeps accounts in MongoDB.
//
// # Documents
//
// Each account is one document of the collection "accounts", named by its key;
// "meta" holds a few small values of the fleet. Credentials arrive sealed. The
// fields are those of [account.Account]; one that has no value is absent, so
// that partial indexes stay small. Durations are Go duration strings. Fields
// that this version doesn't know are left alone.
//
// # Consistency
//
// Only single-document operations are used. Every write is one command that
// checks its condition and is acknowledged by a majority with its journal on
// disk; the driver may repeat it only where the server recognizes the repeat
// (retryable writes). Reads come from the primary with read concern majority:
// they see every write that was acknowledged before, with one exception. For
// the few seconds in which a primary that has been cut off hasn't noticed it
// yet, it still answers reads with what it has, and so with an older version.
// No decision rests on that, for the write that follows is checked by the
// primary that the majority has. With readConcernLevel=linearizable in the URL
// the exception is gone, at the price of a round trip to a majority for each
// read of an account.
//
// # Deployment
//
// A replica set (three members that hold data, or a managed cluster), and a
// user with readWrite on the database. A standalone server works, without
// failover and without retryable writes.
package mongostore
