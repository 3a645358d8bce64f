// Package ledger keeps the account documents: it reads and opens them, changes
// them by compare-and-set, and tells everybody what changed. What is known of
// an account lies at three distances, and all three are here: this process's
// own cache (L1), the cache that all workers share, and the store, which alone
// is the truth.
//
// A view of an account is ordered by its rev. A newer one replaces an older
// one at every distance, never the reverse. A bump that was heard sets a floor:
// nothing below it is served until one read of the store has confirmed or
// refuted it.
//
// A change is announced after it is in the store, and in this order: shared
// cache, event, bump. The document says so itself (announce_pending) until all
// three are acknowledged, so that any worker can make up for one that died.
package ledger
