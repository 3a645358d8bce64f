// Package mongostore keeps accounts in MongoDB.
//
// # Documents
//
// Each account is one document of the collection "accounts", named by its key;
// "meta" holds a few small values of the fleet. Credentials arrive sealed. The
// fields are those of [account.Account]; one that has no value is absent, so
// that partial indexes stay small. Durations are Go duration strings. Fields
// that this version doesn't know are left alone. Documents of an older
// schema_version, or of none, are read, and get ours with the next change. One
// of a newer is left as it is, and an error: [ErrNewer].
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
// # Errors
//
// A call takes no longer than its timeout, and within that the driver repeats
// what it may. What then fails is final ([Final]: it needs a person, and says
// for what), or may end by itself. After a write every error but
// ledger.ErrConflict and ledger.ErrNotFound leaves the outcome open.
//
// # Deployment
//
// A replica set (three members that hold data, or a managed cluster) of
// MongoDB 4.4 or later, and a user with readWrite on the database. A
// standalone server works, without failover and without retryable writes.
package mongostore
