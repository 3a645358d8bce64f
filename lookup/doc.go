// Package lookup answers token requests. It asks this process's own cache
// (L1), then the cache that all workers share, then the store; whichever has a
// token that lives long enough is the answer. A token that comes near its end
// is served while a refresh runs beside the request; one that is too near its
// end makes requests wait, all on the same refresh, each with its own
// deadline.
//
// Thousands may ask for one account at the moment that its token has ended. A
// request that waits is therefore no goroutine but a place in a crowd, with a
// timer: all that ask the same wait for one look at the account (search), and
// all that need its refresh wait for one flight. At the end of a look all get
// what it found, encoded once. At the end of a flight each is judged anew, by
// what is known then; who isn't served by that looks again.
package lookup
