package logon

import (
	"sync/atomic"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
)

// standing remembers of some accounts that they were found in good standing, and in
// which version of the directory: until that changes nothing about them has. It
// forgets one for another that falls on the same slot. The zero standing is empty;
// its methods may be called concurrently.
type standing struct {
	slots [1024]atomic.Pointer[sighting]
}

// A sighting is an account as it was found.
type sighting struct {
	id      covey.AccountID
	address covey.Address
	version uint64 // of the directory
}

func (s *standing) slot(id covey.AccountID) *atomic.Pointer[sighting] {
	return &s.slots[uint64(id)%uint64(len(s.slots))]
}

// holds reports whether the account was noted in this version of the directory.
func (s *standing) holds(a directory.Account, version uint64) bool {
	f := s.slot(a.ID).Load()
	return f != nil && f.id == a.ID && f.version == version && f.address == a.Address
}

func (s *standing) note(a directory.Account, version uint64) {
	s.slot(a.ID).Store(&sighting{a.ID, a.Address, version})
}
