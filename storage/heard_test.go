package storage

import (
	"path/filepath"
	"testing"
)

// What is remembered is a function of the commands alone: how it is spread over
// rows, which depends on when was committed, changes nothing, and neither does a
// start.
func TestHeardIsARing(t *testing.T) {
	cfg := Config{Path: filepath.Join(t.TempDir(), "shard")}
	s := open(t, cfg)
	var want heard
	for n := range uint64(maxHeard + maxHeard/2) {
		p := heardPlace{key: n, time: int64(n)}
		want.add(p)
		s.m.heard.add(p)
		if n%5000 == 7 {
			s.m.meta.applied++ // something to commit
			if _, err := s.Checkpoint(); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.m.meta.applied++
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, cfg)
	got := &s.m.heard
	if got.total != want.total || got.first() != want.first() {
		t.Fatalf("%d to %d are remembered after a start, want %d to %d", got.first(), got.total, want.first(), want.total)
	}
	for n := want.first(); n < want.total; n++ {
		if got.at(n) != want.at(n) {
			t.Fatalf("number %d is %v, want %v", n, got.at(n), want.at(n))
		}
	}
	if n := s.m.t.(*database).query("SELECT count(*) FROM heard").one(); n > 9 {
		t.Errorf("%d rows are kept", n)
	}
	if want.at(maxHeard/2).key != maxHeard/2 || want.first() != maxHeard/2 {
		t.Errorf("the oldest is %v", want.at(want.first()))
	}
}
