package memory_test

import (
	"testing"

	"github.com/tokenbus/tokenbus/internal/memory"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/ledger/cachetest"
	"github.com/tokenbus/tokenbus/ledger/storetest"
	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/refresh/journaltest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(*testing.T) ledger.Store { return &memory.Store{} })
}

func TestCache(t *testing.T) {
	cachetest.Run(t, func(*testing.T) ledger.Cache { return &memory.Cache{} })
}

func TestJournal(t *testing.T) {
	journaltest.Run(t, func(*testing.T) refresh.Journal { return &memory.Journal{} })
}
