package main

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-imap/v2/imapclient"
)

func TestEachSessionOnce(t *testing.T) {
	var mu sync.Mutex // guards seen
	seen := make(map[int]int)
	l := &idleTest{sessions: make([]*imapclient.Client, 3*idleOpens+1)}
	err := l.each(func(i int) error {
		mu.Lock()
		defer mu.Unlock()
		seen[i]++
		if i == 5 {
			return errors.New("the fifth")
		}
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "the fifth") {
		t.Errorf("error %v, want that of the fifth", err)
	}
	// What comes after the fifth in its turn is not begun.
	if len(seen) != len(l.sessions)-2 || seen[5+idleOpens] != 0 {
		t.Errorf("%d of %d sessions", len(seen), len(l.sessions))
	}
	for i, n := range seen {
		if n != 1 {
			t.Errorf("session %d %d times", i, n)
		}
	}
}
