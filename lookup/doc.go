// Package lookup answers token requests. It asks this process's own cache
// (L1), then the cache that all workers share, then the store; whichever has a
// token that lives long enough is the answer. A token that comes near its end
// is served while a refresh runs beside the request; one that is too near its
// end makes requests wait, all on the same refresh, each with its own
// deadline.
package lookup
