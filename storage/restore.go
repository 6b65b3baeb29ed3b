package storage

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/mutant"
	"github.com/covey-mail/covey/internal/snapshot"
	"github.com/covey-mail/covey/storage/seglog"
)

// How much of a copy's bodies is in memory before it goes to the log, and after
// how many of them their rows are committed.
const (
	stageBytes  = 1 << 20
	stagePieces = 1024
	stageCommit = 8192
)

// A restorer puts a copy of a shard together beside the present one: the
// database under another name, the bodies in the log, where its hold keeps them
// until the database that refers to them is the shard's.
type restorer struct {
	shard *shard

	mu     sync.Mutex // for Close of the shard, which may come at any time; taken before shard.mu
	in     *snapshot.Receiver
	hold   *seglog.Hold
	head   snapshot.Header
	db     *snapshot.Staging
	m      *machine  // over the staged database, once it is whole
	d      *database // its tables
	w      *walk     // at the piece that comes next
	staged bool
	over   bool // installed or aborted

	buf   []byte // pieces that are not in the log yet
	batch []stagedPiece
	since int             // pieces placed since the last commit
	to    []seglog.Extent // of the body whose parts are coming
}

// A stagedPiece is one of those in buf.
type stagedPiece struct {
	at   position
	size int
	sum  uint32
	last bool // part of its body
}

// Restore implements State.
func (s *shard) Restore() (snapshot.Restorer, error) {
	r, err := s.restore()
	if err != nil {
		return nil, fmt.Errorf("restore shard %d: %w", s.cfg.Shard, err)
	}
	return r, nil
}

func (s *shard) restore() (*restorer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, s.broken
	case s.reopen == nil || s.cfg.Log == nil:
		return nil, covey.Errorf(covey.Invalid, "there is nowhere to put its bodies or its rows")
	case s.restoring != nil:
		return nil, covey.Errorf(covey.InUse, "a copy is being taken in already")
	}
	r := &restorer{shard: s, hold: s.cfg.Log.Hold(), db: snapshot.NewStaging(s.cfg.FS, s.cfg.Path)}
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
		return fmt.Errorf("restore shard %d: %w", r.shard.cfg.Shard, err)
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
	if h.Group != r.shard.cfg.Shard {
		return covey.Errorf(covey.Corrupt, "the copy is of shard %d", h.Group)
	}
	r.head = h
	return r.db.Begin(h)
}

// Database implements snapshot.Sink.
func (r *restorer) Database(p []byte) error {
	whole, err := r.db.Write(p)
	if whole {
		err = r.open()
	}
	return err
}

// open opens the staged database, and takes out of it where bodies lie at the
// sender. What was installed there is replaced by seal.
func (r *restorer) open() error {
	cfg := r.shard.cfg
	cfg.Path = r.db.Name()
	m, err := openMachine(cfg)
	if err != nil {
		return err
	}
	r.m, r.d = m, m.t.(*database)
	if m.meta.applied != r.head.Index || m.meta.hash != r.head.Hash {
		return covey.Errorf(covey.Corrupt, "the copy is at %d with hash %x, and says %d with %x",
			m.meta.applied, m.meta.hash, r.head.Index, r.head.Hash)
	}
	for _, table := range []string{"resident", "segment"} {
		r.d.change("DELETE FROM " + table).run()
	}
	r.d.used = usage{}
	r.w = newWalk(r.d)
	return r.d.err
}

// Piece implements snapshot.Sink.
func (r *restorer) Piece(c snapshot.Condition, p []byte) error {
	if r.w.done() {
		return errors.Join(r.d.err, covey.Errorf(covey.Corrupt, "more pieces than the database refers to"))
	}
	e := r.w.extent()
	switch {
	case int(e.Length) != len(p):
		return covey.Errorf(covey.Corrupt, "%s comes with %d octets, want %d", r.w, len(p), e.Length)
	case c == snapshot.Sound && e.Sum != 0 && checksum(p) != e.Sum:
		return covey.Errorf(covey.Corrupt, "%s does not match its checksum", r.w)
	}
	if mutant.Is(mutant.EmptyCopy) {
		clear(p)
		e.Sum = 0
	}
	r.batch = append(r.batch, stagedPiece{r.w.position(), len(p), e.Sum, r.w.last()})
	r.buf = append(r.buf, p...)
	if len(r.buf) >= stageBytes || len(r.batch) >= stagePieces {
		if err := r.place(); err != nil {
			return err
		}
	}
	r.w.next()
	return r.d.err
}

// place puts the pieces in memory into the log, and what lies where into the
// staged database.
func (r *restorer) place() error {
	bodies, rest := make([][]byte, len(r.batch)), r.buf
	for i, p := range r.batch {
		bodies[i], rest = rest[:p.size], rest[p.size:]
	}
	places, err := r.hold.Append(bodies)
	if err != nil {
		return err
	}
	for i, e := range places {
		p := r.batch[i]
		e.Sum = p.sum // of a damaged one it is not that of the bytes
		if p.at.body == 0 {
			r.d.placeChunk(r.w.chunks[p.at.part], e)
			continue
		}
		if r.to = append(r.to, e); p.last {
			r.d.placeBody(p.at.body, r.to)
			r.to = r.to[:0]
		}
	}
	if r.since += len(r.batch); r.since >= stageCommit {
		r.d.commit(r.m)
		r.since = 0
	}
	r.buf, r.batch = r.buf[:0], r.batch[:0]
	return r.d.err
}

// placeChunk says where a pending chunk of a copy lies here.
func (d *database) placeChunk(c chunkRow, e seglog.Extent) {
	d.count(e, 1)
	d.scratch = appendExtents(d.scratch[:0], []seglog.Extent{e})
	d.change("UPDATE chunk SET extent = ? WHERE node = ?+0 AND boot = ?+0 AND seq = ?+0 AND n = ?+0").blob(d.scratch).
		int(int64(c.id.Node)).int(int64(c.id.Boot)).int(int64(c.id.Seq)).int(int64(c.n)).run()
}

// Stage implements snapshot.Restorer.
func (r *restorer) Stage() (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.stage(); err != nil {
		return 0, fmt.Errorf("stage copy of shard %d: %w", r.shard.cfg.Shard, err)
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
	if !r.w.done() {
		return covey.Errorf(covey.Corrupt, "%s did not come", r.w)
	}
	if err := r.place(); err != nil {
		return err
	}
	// The bodies are on stable storage before what refers to them is.
	if err := r.shard.cfg.Log.Write(&seglog.Batch{}, seglog.Synced); err != nil {
		return err
	}
	r.d.commit(r.m)
	if s := r.d.word("PRAGMA quick_check(1)"); r.d.err == nil && s != "ok" {
		return covey.Errorf(covey.Corrupt, "database: %s", s)
	}
	d := r.d
	r.m, r.d, r.w, r.buf, r.batch = nil, nil, nil, nil, nil
	if err := r.shut(d); err != nil {
		return err
	}
	r.staged = true
	return nil
}

// shut closes a staged database so that all of it is in its file, on stable
// storage.
func (r *restorer) shut(d *database) error {
	if d.err == nil {
		d.checkpoint()
	}
	err := d.err
	if cerr := d.close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return r.db.Settle()
}

// Abort implements snapshot.Restorer.
func (r *restorer) Abort() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return nil
	}
	err := r.drop()
	r.end()
	if err != nil {
		return fmt.Errorf("end restoring shard %d: %w", r.shard.cfg.Shard, err)
	}
	return nil
}

// drop removes what was staged.
func (r *restorer) drop() error {
	if r.d != nil {
		r.d.close() // its error is of a file that goes
	}
	r.m, r.d, r.w, r.buf, r.batch = nil, nil, nil, nil, nil
	return r.db.Drop()
}

// end lets the bodies go, to the shard or to the compactor, and makes room for
// another restorer.
func (r *restorer) end() {
	r.over = true
	r.hold.Release()
	s := r.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.restoring == r {
		s.restoring = nil
	}
}

// Install implements State.
func (s *shard) Install(in snapshot.Restorer, meta []byte) error {
	r, ok := in.(*restorer)
	if !ok || r.shard != s || len(meta) > snapshot.MetaSize {
		return covey.Errorf(covey.Invalid, "install a copy of shard %d: it is not one, or %d octets with it", s.cfg.Shard, len(meta))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.install(meta); err != nil {
		return fmt.Errorf("install a copy of shard %d: %w", s.cfg.Shard, err)
	}
	r.end()
	s.cfg.Replaced()
	return nil
}

func (r *restorer) install(meta []byte) error {
	switch {
	case r.over || !r.staged:
		return covey.Errorf(covey.Invalid, "it is not staged")
	case r.head.Index < r.shard.Applied():
		return covey.Errorf(covey.Invalid, "it is at %d, behind what is applied", r.head.Index)
	}
	if err := r.seal(meta); err != nil {
		return err
	}
	return r.shard.replace()
}

// seal puts meta into the staged database.
func (r *restorer) seal(meta []byte) error {
	cfg := r.shard.cfg
	cfg.Path = r.db.Name()
	d, err := openDatabase(cfg)
	if err != nil {
		return err
	}
	d.change("REPLACE INTO installed VALUES (1, ?)").blob(meta).run()
	d.commitTransaction()
	return r.shut(d)
}

// replace has the staged database take the place of the shard's. Readers wait
// meanwhile, and then see the new state.
func (s *shard) replace() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return s.broken
	}
	m, err := s.exchange()
	if err != nil {
		s.broken = err
		return err
	}
	s.m, s.broken = m, nil
	s.commands, s.bytes, s.notUntil = 0, 0, time.Time{}
	return nil
}

// exchange exchanges the files and opens the new ones.
func (s *shard) exchange() (*machine, error) {
	if err := snapshot.Commit(s.cfg.FS, s.cfg.Path); err != nil {
		return nil, err
	}
	s.m.t.close() // whatever became of it, it is not needed any more
	if err := snapshot.Finish(s.cfg.FS, s.cfg.Path); err != nil {
		return nil, err
	}
	return s.reopen()
}

// Installed implements State.
func (s *shard) Installed() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m.installed
}
