// Package refresh brings accounts to new credentials, each exactly once
// however many ask, and saves what the token endpoint answers before anyone is
// told. It carries out what package rotation decides, on the documents of
// package ledger.
//
// What happens to one account is one flight in this process ([Refresher.Refresh]):
// whoever needs a refresh joins it, whoever leaves cancels nothing. The flight
// reads the document and asks [rotation.Decide]. To begin, it writes the
// rotation's record; to exchange, it sends the refresh token once, behind a
// heartbeat that forbids the first byte when it can't be sure of the record;
// the answer goes into the spool before it is even parsed, and
// [rotation.Settle] says what it does to the document. Until the store has it
// the answer waits in a journal, from which any worker may settle it at any
// time.
//
// # What it does not trust
//
// No lock: a lease only keeps the herd away. No clock of another machine: a
// worker is gone when its heartbeat has not changed for long enough on our
// own clock. No request's context: an exchange, once begun, runs to its end.
// No write whose outcome is unknown: it is read back.
package refresh
