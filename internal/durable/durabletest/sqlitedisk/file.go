package sqlitedisk

import (
	"errors"
	"io"
	"path/filepath"
	"syscall"
	"unsafe"

	"modernc.org/libc"
	lib "modernc.org/sqlite/lib"

	"github.com/covey-mail/covey/internal/durable"
)

// A file is one that SQLite has open. It calls for one file from one goroutine at a
// time.
type file struct {
	durable.File
	name    string
	newName bool // the first sync puts the names of the folder on the disk too

	lock  *lock
	level int32 // of the lock, SQLITE_LOCK_NONE to SQLITE_LOCK_EXCLUSIVE; guarded by VFS.mu
}

func (v *VFS) fillMethods(c *lib.Tsqlite3_io_methods) {
	*c = lib.Tsqlite3_io_methods{
		FiVersion:               1, // which has no shared memory and no mapping
		FxClose:                 pointer(v, v.close),
		FxRead:                  pointer(v, v.read),
		FxWrite:                 pointer(v, v.write),
		FxTruncate:              pointer(v, v.truncate),
		FxSync:                  pointer(v, v.sync),
		FxFileSize:              pointer(v, v.fileSize),
		FxLock:                  pointer(v, v.acquire),
		FxUnlock:                pointer(v, v.release),
		FxCheckReservedLock:     pointer(v, v.checkReserved),
		FxFileControl:           pointer(v, control),
		FxSectorSize:            pointer(v, sectorSize),
		FxDeviceCharacteristics: pointer(v, characteristics),
	}
}

func (v *VFS) of(cfile uintptr) *file {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.files[cfile]
}

// close is xClose.
func (v *VFS) close(tls *libc.TLS, cfile uintptr) int32 {
	v.release(tls, cfile, lib.SQLITE_LOCK_NONE)
	v.mu.Lock()
	f := v.files[cfile]
	delete(v.files, cfile)
	v.mu.Unlock()
	_ = f.Close() // which syncs nothing, so that nothing is to be told
	return lib.SQLITE_OK
}

// read is xRead.
func (v *VFS) read(_ *libc.TLS, cfile, buf uintptr, n int32, off int64) int32 {
	b := unsafe.Slice(at[byte](buf), n)
	k, err := v.of(cfile).ReadAt(b, off)
	switch {
	case k == len(b):
		return lib.SQLITE_OK
	case err == nil || errors.Is(err, io.EOF):
		clear(b[k:])
		return lib.SQLITE_IOERR_SHORT_READ
	case errors.Is(err, syscall.EIO):
		return lib.SQLITE_IOERR_CORRUPTFS
	}
	return lib.SQLITE_IOERR_READ
}

// write is xWrite.
func (v *VFS) write(_ *libc.TLS, cfile, buf uintptr, n int32, off int64) int32 {
	_, err := v.of(cfile).WriteAt(unsafe.Slice(at[byte](buf), n), off)
	switch {
	case err == nil:
		return lib.SQLITE_OK
	case errors.Is(err, syscall.ENOSPC):
		return lib.SQLITE_FULL
	}
	return lib.SQLITE_IOERR_WRITE
}

// truncate is xTruncate.
func (v *VFS) truncate(_ *libc.TLS, cfile uintptr, size int64) int32 {
	if err := v.of(cfile).Truncate(size); err != nil {
		return lib.SQLITE_IOERR_TRUNCATE
	}
	return lib.SQLITE_OK
}

// sync is xSync. As on Unix, it tells nobody that the folder could not be synced.
func (v *VFS) sync(_ *libc.TLS, cfile uintptr, _ int32) int32 {
	f := v.of(cfile)
	if err := f.Sync(); err != nil {
		return lib.SQLITE_IOERR_FSYNC
	}
	if f.newName {
		f.newName = false
		_ = v.fs.SyncDir(filepath.Dir(f.name))
	}
	return lib.SQLITE_OK
}

// fileSize is xFileSize.
func (v *VFS) fileSize(_ *libc.TLS, cfile, out uintptr) int32 {
	n, err := v.of(cfile).Size()
	if err != nil {
		return lib.SQLITE_IOERR_FSTAT
	}
	*at[int64](out) = n
	return lib.SQLITE_OK
}

// control is xFileControl: nothing that SQLite tells or asks here changes what it does.
func control(*libc.TLS, uintptr, int32, uintptr) int32 { return lib.SQLITE_NOTFOUND }

// sectorSize is xSectorSize, which SQLite does not go by where writes leave alone what
// is beside them.
func sectorSize(*libc.TLS, uintptr) int32 { return 4096 }

// characteristics is xDeviceCharacteristics.
func characteristics(*libc.TLS, uintptr) int32 {
	return lib.SQLITE_IOCAP_POWERSAFE_OVERWRITE | lib.SQLITE_IOCAP_SUBPAGE_READ
}
