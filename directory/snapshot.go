package directory

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/snapshot"
)

// Snapshot begins a copy of the directory as it is now, for another node. The
// goroutine that calls Apply calls it. It takes as long as a checkpoint; the file
// is copied behind it. Callers who ask while a copy is being made get that one.
// covey.Limit: too many are open. After covey.DiskFull, Recover, as after a
// checkpoint.
func (s *State) Snapshot() (snapshot.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.readable()
	var out snapshot.Snapshot
	if err == nil {
		out, err = s.copies.Open(s.Applied(), s.beginCopy)
	}
	if err != nil {
		return nil, fmt.Errorf("copy directory: %w", err)
	}
	return out, nil
}

// beginCopy begins the nth copy. After the checkpoint the database file is the
// state, and stays so until the next one, which waits for the copy. mu is held.
func (s *State) beginCopy(n uint64) (snapshot.Copy, error) {
	index, err := s.checkpointLocked()
	if err != nil {
		return snapshot.Copy{}, err
	}
	_, hash := s.Hash()
	file, size, err := s.db.source.Copy(snapshot.CopyName(s.cfg.Path, n))
	if err != nil {
		return snapshot.Copy{}, err
	}
	head := snapshot.Header{Group: covey.DirectoryShard, Index: index, Hash: hash, Database: size}
	return snapshot.Copy{Header: head, File: file}, nil
}

// A restorer puts a copy of the directory together beside the present one.
type restorer struct {
	state *State

	mu     sync.Mutex // for Close of the State, which may come at any time; taken before State.mu
	in     *snapshot.Receiver
	head   snapshot.Header
	db     *snapshot.Staging
	staged bool
	over   bool // installed or aborted
}

// Restore begins to take in a copy that another node made, beside everything
// else. covey.InUse: one is being taken in.
func (s *State) Restore() (snapshot.Restorer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, fmt.Errorf("restore: %w", s.readable())
	case s.restoring != nil:
		return nil, covey.Errorf(covey.InUse, "restore directory: a copy is being taken in already")
	}
	r := &restorer{state: s, db: snapshot.NewStaging(s.cfg.FS, s.cfg.Path)}
	r.in = snapshot.NewReceiver(r)
	s.restoring = r
	return r, nil
}

// WriteChunk implements snapshot.Restorer.
func (r *restorer) WriteChunk(b []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.ready()
	if err == nil {
		err = r.in.WriteChunk(b)
	}
	if err != nil {
		return fmt.Errorf("restore directory: %w", err)
	}
	return nil
}

func (r *restorer) ready() error {
	switch {
	case r.over:
		return covey.Errorf(covey.Unavailable, "it was ended")
	case r.staged:
		return covey.Errorf(covey.Invalid, "all of it was there")
	}
	return nil
}

// Begin implements snapshot.Sink.
func (r *restorer) Begin(h snapshot.Header) error {
	if h.Group != covey.DirectoryShard || h.Pieces != 0 {
		return covey.Errorf(covey.Corrupt, "the copy is of shard %d, with %d pieces", h.Group, h.Pieces)
	}
	r.head = h
	return r.db.Begin(h)
}

// Database implements snapshot.Sink.
func (r *restorer) Database(p []byte) error {
	_, err := r.db.Write(p)
	return err
}

// Piece implements snapshot.Sink.
func (r *restorer) Piece(snapshot.Condition, []byte) error {
	return covey.Errorf(covey.Corrupt, "a directory has no pieces")
}

// Stage implements snapshot.Restorer.
func (r *restorer) Stage() (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.stage(); err != nil {
		return 0, fmt.Errorf("stage copy of directory: %w", err)
	}
	return r.head.Index, nil
}

func (r *restorer) stage() error {
	if err := r.ready(); err != nil {
		return err
	}
	if err := r.in.End(); err != nil {
		return err
	}
	err := r.withDatabase(func(db *database) error { return foreign(db.verify(r.head)) })
	if err != nil {
		return err
	}
	r.staged = true
	return nil
}

// withDatabase opens the staged database for f, and has what f changed on stable
// storage when it returns nil.
func (r *restorer) withDatabase(f func(*database) error) error {
	cfg := r.state.cfg
	cfg.Path = r.db.Name()
	db, err := openDatabase(cfg)
	if err != nil {
		return foreign(err)
	}
	if err = f(db); err == nil {
		err = db.checkpoint()
	}
	if err := errors.Join(err, db.close()); err != nil {
		return err
	}
	return r.db.Settle()
}

// foreign gives an error that is the fault of what a peer sent its kind.
func foreign(err error) error {
	if err == nil || covey.KindOf(err) != covey.Internal {
		return err
	}
	switch sqlite.ErrCode(err).ToPrimary() {
	case sqlite.ResultFull:
		return covey.Errorf(covey.DiskFull, "%w", err)
	case sqlite.ResultIOErr, sqlite.ResultNoMem, sqlite.ResultBusy, sqlite.ResultCantOpen:
		return err
	}
	return covey.Errorf(covey.Corrupt, "%w", err)
}

// verify checks that a database which came from elsewhere is one that this
// program could have made, whole, and what its header says.
func (db *database) verify(h snapshot.Header) error {
	want, err := expectedSchema()
	if err != nil {
		return err
	}
	have, err := db.schema()
	if err != nil {
		return err
	}
	if !slices.Equal(have, want) {
		return covey.Errorf(covey.Corrupt, "tables are not as format %d has them", len(formats))
	}
	err = db.query("PRAGMA quick_check(1)", nil, func(q *sqlite.Stmt) error {
		if line := q.ColumnText(0); line != "ok" {
			return covey.Errorf(covey.Corrupt, "database: %s", line)
		}
		return nil
	})
	if err != nil {
		return err
	}
	m, err := db.loadMeta()
	if err == nil && (m.applied != h.Index || m.hash != h.Hash) {
		err = covey.Errorf(covey.Corrupt, "the copy is at %d with hash %x, and says %d with %x", m.applied, m.hash, h.Index, h.Hash)
	}
	if err == nil {
		_, err = db.loadDomains()
	}
	if err == nil {
		_, err = db.loadCluster()
	}
	return err
}

// schema returns the texts that made the tables, in order.
func (db *database) schema() ([]string, error) {
	var list []string
	err := db.query("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY sql", nil, func(q *sqlite.Stmt) error {
		list = append(list, q.ColumnText(0))
		return nil
	})
	return list, err
}

// expectedSchema returns what schema does of a database made here.
func expectedSchema() ([]string, error) {
	conn, err := sqlite.OpenConn(":memory:", sqlite.OpenReadWrite, sqlite.OpenCreate, sqlite.OpenMemory)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := sqlitex.ExecuteScript(conn, strings.Join(formats[:], ""), nil); err != nil {
		return nil, err
	}
	return (&database{conn: conn}).schema()
}

// Abort implements snapshot.Restorer.
func (r *restorer) Abort() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return nil
	}
	err := r.db.Drop()
	r.end()
	if err != nil {
		return fmt.Errorf("end restoring the directory: %w", err)
	}
	return nil
}

// end makes room for another restorer.
func (r *restorer) end() {
	r.over = true
	s := r.state
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.restoring == r {
		s.restoring = nil
	}
}

// Install replaces the directory by a staged copy; the goroutine that calls Apply
// calls it. When it returns nil that is on stable storage, with meta, of at most
// snapshot.MetaSize bytes, readers see the new state, and watchers were told. A
// copy that is behind Applied is covey.Invalid. After Invalid and DiskFull nothing
// has happened; after any other error nothing more is applied, and OpenState will
// show the old state or the new.
func (s *State) Install(in snapshot.Restorer, meta []byte) error {
	r, ok := in.(*restorer)
	if !ok || r.state != s || len(meta) > snapshot.MetaSize {
		return covey.Errorf(covey.Invalid, "install a copy of the directory: it is not one, or %d octets with it", len(meta))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.install(meta); err != nil {
		return fmt.Errorf("install a copy of the directory: %w", err)
	}
	r.end()
	s.tell()
	return nil
}

func (r *restorer) install(meta []byte) error {
	switch {
	case r.over || !r.staged:
		return covey.Errorf(covey.Invalid, "it is not staged")
	case r.head.Index < r.state.Applied():
		return covey.Errorf(covey.Invalid, "it is at %d, behind what is applied", r.head.Index)
	}
	err := r.withDatabase(func(db *database) error { return db.exec("REPLACE INTO installed VALUES (1, ?)", meta) })
	if err != nil {
		return err
	}
	return r.state.replace()
}

// replace has the staged database take the place of the present one. Readers wait
// meanwhile.
func (s *State) replace() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return covey.Errorf(covey.Unavailable, "directory is closed")
	}
	s.failed = s.exchange()
	return s.failed
}

// exchange exchanges the files and reads the new ones.
func (s *State) exchange() error {
	if err := snapshot.Commit(s.cfg.FS, s.cfg.Path); err != nil {
		return err
	}
	s.db.close() // whatever became of it, it is not needed any more
	if err := snapshot.Finish(s.cfg.FS, s.cfg.Path); err != nil {
		return err
	}
	db, err := openDatabase(s.cfg)
	if err != nil {
		return err
	}
	s.db, s.pending, s.commitAt = db, 0, commitEvery
	return s.reload()
}

// Installed returns the meta of the Install that this directory began with, nil if
// there was none.
func (s *State) Installed() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readable() != nil {
		return nil
	}
	var meta []byte
	err := s.db.query("SELECT meta FROM installed", nil, func(q *sqlite.Stmt) error {
		if n := q.ColumnLen(0); n > 0 {
			meta = make([]byte, n)
			q.ColumnBytes(0, meta)
		}
		return nil
	})
	if err != nil {
		return nil
	}
	return meta
}
