package storage_test

import (
	"testing"

	"github.com/covey-mail/covey/storage"
	"github.com/covey-mail/covey/storage/storagetest"
)

func TestMemory(t *testing.T) {
	storagetest.Run(t, func(_ testing.TB, cfg storage.Config) storage.State { return storage.OpenMemory(cfg) })
}

func openSQLite(t testing.TB, cfg storage.Config) storage.State {
	t.Helper()
	s, err := storage.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSQLite(t *testing.T) { storagetest.Run(t, openSQLite) }
