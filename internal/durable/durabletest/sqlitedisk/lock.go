package sqlitedisk

import (
	"modernc.org/libc"
	lib "modernc.org/sqlite/lib"
)

// A lock is what is locked of a database. VFS.mu guards it.
type lock struct {
	users  int   // files that have it SHARED or more
	writer *file // that has it RESERVED or more; nil: none
	closed bool  // PENDING or EXCLUSIVE: the writer lets nobody else in
}

// acquire is xLock.
func (v *VFS) acquire(_ *libc.TLS, cfile uintptr, want int32) int32 {
	v.mu.Lock()
	defer v.mu.Unlock()
	f := v.files[cfile]
	l := f.lock
	switch {
	case f.level >= want:
		return lib.SQLITE_OK
	case want == lib.SQLITE_LOCK_SHARED:
		if l.closed {
			return lib.SQLITE_BUSY
		}
		l.users++
	case l.writer != nil && l.writer != f:
		return lib.SQLITE_BUSY
	default:
		l.writer, l.closed = f, want > lib.SQLITE_LOCK_RESERVED
		if want == lib.SQLITE_LOCK_EXCLUSIVE && l.users > 1 {
			f.level = lib.SQLITE_LOCK_PENDING
			return lib.SQLITE_BUSY
		}
	}
	f.level = want
	return lib.SQLITE_OK
}

// release is xUnlock, to SQLITE_LOCK_SHARED or SQLITE_LOCK_NONE.
func (v *VFS) release(_ *libc.TLS, cfile uintptr, to int32) int32 {
	v.mu.Lock()
	defer v.mu.Unlock()
	f := v.files[cfile]
	if f.level <= to {
		return lib.SQLITE_OK
	}
	if f.lock.writer == f {
		f.lock.writer, f.lock.closed = nil, false
	}
	if to == lib.SQLITE_LOCK_NONE {
		f.lock.users--
	}
	f.level = to
	return lib.SQLITE_OK
}

// checkReserved is xCheckReservedLock.
func (v *VFS) checkReserved(_ *libc.TLS, cfile, out uintptr) int32 {
	v.mu.Lock()
	defer v.mu.Unlock()
	*at[int32](out) = number(v.files[cfile].lock.writer != nil)
	return lib.SQLITE_OK
}
