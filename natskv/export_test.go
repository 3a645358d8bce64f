package natskv

import (
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/ledger"
)

// What the fuzz targets and the tests of the index reach.
var (
	EncodeEntry   = encodeEntry
	DecodeEntry   = decodeEntry
	DecodeRev     = decodeRev
	DecodeRecord  = decodeRecord
	DecodeAccount = decodeAccount
)

// FactsHeader is the header of a document's facts.
const FactsHeader = headerFacts

// EncodeFacts returns the header of a document.
func EncodeFacts(a account.Account) string { return factsOf(a).encode() }

// ReencodeFacts decodes and encodes.
func ReencodeFacts(text string) (string, bool) {
	f, ok := decodeFacts(text)
	return f.encode(), ok
}

// Index is the index of a store, without its watcher.
type Index struct{ ix *index }

// NewIndex returns an empty index.
func NewIndex() *Index { return &Index{newIndex()} }

// Set takes in a document.
func (x *Index) Set(a account.Account) { x.ix.set(a.Key.String(), factsOf(a)) }

// Drop forgets a document.
func (x *Index) Drop(key account.Key) { x.ix.drop(key.String()) }

// Due returns what is due.
func (x *Index) Due(now time.Time, limit int, except ...string) []account.Key {
	return x.ix.dueBy(now, limit, except...)
}

// Pending returns what is pending.
func (x *Index) Pending(limit int) []account.Key { return x.ix.pendingKeys(limit) }

// Page returns a page of keys.
func (x *Index) Page(q ledger.ListQuery) []string { return x.ix.page(q, q.Limit) }
