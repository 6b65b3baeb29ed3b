// Package sqlitedisk has SQLite keep its databases on a durable.FS, for tests: on a
// durabletest.Disk they lose at a power cut what SQLite did not sync.
//
// It is a VFS of SQLite, as the one for Unix that a node runs with: the same calls of
// the file system in the same order, among them the sync of the folder with the first
// sync of a new log or journal, and the same codes for errors. What it promises of
// the disk is the same too, and durabletest.Disk keeps it: a write changes no octet
// beside those written, whatever becomes of it.
//
// It has no shared memory, so that a database with a write-ahead log must be opened
// with locking_mode = EXCLUSIVE, and no locks between processes. Files without a name,
// which SQLite uses for sorting and the like, are those of the operating system.
package sqlitedisk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"unsafe"

	"modernc.org/libc"
	lib "modernc.org/sqlite/lib"

	"github.com/covey-mail/covey/internal/durable"
)

// A VFS is a file system that SQLite knows by a name of its own. Its methods may be
// called by any number of goroutines at once.
type VFS struct {
	fs   durable.FS
	name string
	own  uintptr // C's sqlite3_vfs of the operating system

	// C's view of it: sqlite3_vfs, sqlite3_io_methods, and the name.
	vfs, methods, cname uintptr
	funcs               []any // what they point to, for the garbage collector to see

	mu    sync.Mutex        // guards what follows
	files map[uintptr]*file // that are open, by where SQLite has its sqlite3_file
	locks map[string]*lock  // by the path of the database
}

// Register makes a file system known to SQLite. It stays so until Close, which must
// be called.
func Register(fsys durable.FS) (*VFS, error) {
	v := &VFS{fs: fsys, files: map[uintptr]*file{}, locks: map[string]*lock{}}
	tls := libc.NewTLS()
	defer tls.Close()
	v.own = lib.Xsqlite3_vfs_find(tls, 0)
	if v.own == 0 {
		return nil, errors.New("register with SQLite: it has no file system of its own")
	}
	v.vfs = lib.Xsqlite3_malloc64(tls, lib.Tsqlite3_uint64(unsafe.Sizeof(lib.Tsqlite3_vfs{})))
	v.methods = lib.Xsqlite3_malloc64(tls, lib.Tsqlite3_uint64(unsafe.Sizeof(lib.Tsqlite3_io_methods{})))
	v.name = fmt.Sprintf("covey-%x", v.vfs) // no two have the same address
	var err error
	if v.cname, err = libc.CString(v.name); err != nil || v.vfs == 0 || v.methods == 0 {
		v.free(tls)
		return nil, errors.Join(errors.New("register with SQLite: no memory"), err)
	}
	v.fill()
	if rc := lib.Xsqlite3_vfs_register(tls, v.vfs, 0); rc != lib.SQLITE_OK {
		v.free(tls)
		return nil, fmt.Errorf("register with SQLite: code %d", rc)
	}
	return v, nil
}

// fill writes what C sees.
func (v *VFS) fill() {
	c := at[lib.Tsqlite3_vfs](v.vfs)
	*c = *at[lib.Tsqlite3_vfs](v.own) // time, randomness and sleep stay
	c.FiVersion, c.FpNext, c.FpAppData, c.FzName = 1, 0, 0, v.cname
	own := c.FxOpen
	c.FxOpen = pointer(v, opener(func(tls *libc.TLS, _, name, file uintptr, flags int32, out uintptr) int32 {
		if name == 0 || flags&lib.SQLITE_OPEN_DELETEONCLOSE != 0 {
			return (*(*opener)(unsafe.Pointer(&struct{ uintptr }{own})))(tls, v.own, name, file, flags, out)
		}
		return v.open(libc.GoString(name), file, flags, out)
	}))
	c.FxDelete = pointer(v, v.delete)
	c.FxAccess = pointer(v, v.access)
	c.FxFullPathname = pointer(v, v.fullPathname)
	v.fillMethods(at[lib.Tsqlite3_io_methods](v.methods))
}

// Name is what a URI says behind vfs= to have a database on this file system.
func (v *VFS) Name() string { return v.name }

// Close has SQLite forget the file system. While files are open on it nothing
// happens but an error.
func (v *VFS) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.files) > 0 {
		return fmt.Errorf("file system %s: %d files are open", v.name, len(v.files))
	}
	if v.vfs == 0 {
		return nil
	}
	tls := libc.NewTLS()
	defer tls.Close()
	rc := lib.Xsqlite3_vfs_unregister(tls, v.vfs)
	v.free(tls)
	if rc != lib.SQLITE_OK {
		return fmt.Errorf("file system %s: SQLite does not forget it: code %d", v.name, rc)
	}
	return nil
}

func (v *VFS) free(tls *libc.TLS) {
	lib.Xsqlite3_free(tls, v.vfs)
	lib.Xsqlite3_free(tls, v.methods)
	libc.Xfree(tls, v.cname)
	v.vfs, v.methods, v.cname = 0, 0, 0
}

// at returns what lies at an address of C.
func at[T any](p uintptr) *T { return *(**T)(unsafe.Pointer(&p)) }

// pointer returns what C, as it is in Go, calls a function by. v keeps it alive.
func pointer[F any](v *VFS, f F) uintptr {
	v.funcs = append(v.funcs, f)
	return *(*uintptr)(unsafe.Pointer(&f))
}

// An opener is the type of xOpen.
type opener = func(tls *libc.TLS, vfs, name, file uintptr, flags int32, out uintptr) int32

// open is xOpen for a file that has a name.
func (v *VFS) open(name string, cfile uintptr, flags int32, out uintptr) int32 {
	at[lib.Tsqlite3_file](cfile).FpMethods = 0 // it is not closed if it was not opened
	f := &file{name: name}
	var err error
	f.File, err = v.fs.Open(f.name, openFlags(flags), 0o600)
	if err != nil && !errors.Is(err, syscall.EISDIR) && flags&lib.SQLITE_OPEN_READWRITE != 0 {
		flags = flags&^(lib.SQLITE_OPEN_READWRITE|lib.SQLITE_OPEN_CREATE) | lib.SQLITE_OPEN_READONLY
		f.File, err = v.fs.Open(f.name, openFlags(flags), 0o600)
	}
	if err != nil {
		return lib.SQLITE_CANTOPEN
	}
	const logs = lib.SQLITE_OPEN_WAL | lib.SQLITE_OPEN_MAIN_JOURNAL | lib.SQLITE_OPEN_SUPER_JOURNAL
	f.newName = flags&lib.SQLITE_OPEN_CREATE != 0 && flags&logs != 0
	if out != 0 {
		*at[int32](out) = flags
	}
	v.add(cfile, f)
	at[lib.Tsqlite3_file](cfile).FpMethods = v.methods
	return lib.SQLITE_OK
}

// openFlags are those of os.OpenFile.
func openFlags(flags int32) int {
	how := os.O_RDONLY
	if flags&lib.SQLITE_OPEN_READWRITE != 0 {
		how = os.O_RDWR
	}
	if flags&lib.SQLITE_OPEN_CREATE != 0 {
		how |= os.O_CREATE
	}
	if flags&lib.SQLITE_OPEN_EXCLUSIVE != 0 {
		how |= os.O_EXCL
	}
	return how
}

func (v *VFS) add(cfile uintptr, f *file) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.locks[f.name] == nil {
		v.locks[f.name] = new(lock)
	}
	f.lock = v.locks[f.name]
	v.files[cfile] = f
}

// delete is xDelete.
func (v *VFS) delete(_ *libc.TLS, _, cname uintptr, syncDir int32) int32 {
	name := libc.GoString(cname)
	if err := v.fs.Remove(name); errors.Is(err, fs.ErrNotExist) {
		return lib.SQLITE_IOERR_DELETE_NOENT
	} else if err != nil {
		return lib.SQLITE_IOERR_DELETE
	}
	if syncDir&1 != 0 {
		if err := v.fs.SyncDir(filepath.Dir(name)); err != nil {
			return lib.SQLITE_IOERR_DIR_FSYNC
		}
	}
	return lib.SQLITE_OK
}

// access is xAccess. An empty file counts as one that is not there, as it does for
// SQLite on Unix.
func (v *VFS) access(_ *libc.TLS, _, cname uintptr, flags int32, out uintptr) int32 {
	st, err := v.fs.Stat(libc.GoString(cname))
	there := err == nil && (flags != lib.SQLITE_ACCESS_EXISTS || !st.Mode().IsRegular() || st.Size() > 0)
	*at[int32](out) = number(there)
	return lib.SQLITE_OK
}

// fullPathname is xFullPathname.
func (v *VFS) fullPathname(_ *libc.TLS, _, cname uintptr, size int32, out uintptr) int32 {
	name, err := filepath.Abs(libc.GoString(cname))
	if err != nil || len(name) >= int(size) {
		return lib.SQLITE_CANTOPEN
	}
	b := unsafe.Slice(at[byte](out), size)
	b[copy(b, name)] = 0
	return lib.SQLITE_OK
}

func number(b bool) int32 {
	if b {
		return 1
	}
	return 0
}
