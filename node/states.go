package node

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage"
)

// states are the mailbox shards that have a replica on this node. They come and
// go while it runs; looking one up takes no lock.
type states struct {
	mu  sync.Mutex // held while the map is replaced
	all atomic.Pointer[map[covey.ShardID]storage.State]
}

func newStates() *states {
	s := new(states)
	s.all.Store(&map[covey.ShardID]storage.State{})
	return s
}

func (s *states) get(id covey.ShardID) (storage.State, bool) {
	st, ok := (*s.all.Load())[id]
	return st, ok
}

// reader is get for those who only read.
func (s *states) reader(id covey.ShardID) (storage.Reader, bool) { return s.get(id) }

// placers returns those whose bodies the compactor must know of.
func (s *states) placers() map[covey.ShardID]storage.Placer {
	all := make(map[covey.ShardID]storage.Placer)
	for id, st := range *s.all.Load() {
		all[id] = st
	}
	return all
}

// copy returns all, for a caller who may change the map.
func (s *states) copy() map[covey.ShardID]storage.State { return maps.Clone(*s.all.Load()) }

func (s *states) add(id covey.ShardID, st storage.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := maps.Clone(*s.all.Load())
	next[id] = st
	s.all.Store(&next)
}

func (s *states) remove(id covey.ShardID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := maps.Clone(*s.all.Load())
	delete(next, id)
	s.all.Store(&next)
}
