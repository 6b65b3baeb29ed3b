package storage_test

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/covey-mail/covey/storage"
	"github.com/covey-mail/covey/storage/storagetest"
)

// TestMain runs the random tests fewer times than rapid would: each opens
// databases, and waits for the disk. More with -rapid.checks=N.
func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "rapid.checks" })
	if !given {
		if err := flag.Set("rapid.checks", "25"); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

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

func TestSQLiteReopen(t *testing.T) { storagetest.RunReopen(t, openSQLite) }
