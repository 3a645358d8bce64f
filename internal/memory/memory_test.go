package memory_test

import (
	"testing"

	"github.com/tokenbus/tokenbus/internal/memory"
	"github.com/tokenbus/tokenbus/provider"
	"github.com/tokenbus/tokenbus/provider/cachetest"
	"github.com/tokenbus/tokenbus/provider/journaltest"
	"github.com/tokenbus/tokenbus/provider/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(*testing.T) provider.Store { return &memory.Store{} })
}

func TestCache(t *testing.T) {
	cachetest.Run(t, func(*testing.T) provider.Cache { return &memory.Cache{} })
}

func TestJournal(t *testing.T) {
	journaltest.Run(t, func(*testing.T) provider.Journal { return &memory.Journal{} })
}
