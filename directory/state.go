package directory

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/internal/recent"
	"github.com/covey-mail/covey/internal/runhash"
	"github.com/covey-mail/covey/internal/snapshot"
	"github.com/covey-mail/covey/internal/wire"
	"github.com/covey-mail/covey/storage/seglog"
)

// commitEvery is how many commands share one transaction. Until it is committed
// the log makes them durable.
const commitEvery = 1000

// A Config says where a State is kept.
type Config struct {
	Path      string // of the database; its folder exists
	CacheRows int    // accounts with their passwords, and aliases, kept in memory; 0: 65,536

	// AddressBytes bounds the memory for addresses. All are in it while they fit,
	// some 45 bytes each; beyond, those that were asked for lately, and others are
	// read from the database. 0: 128 MiB.
	AddressBytes int

	// FS is the file system that SQLite has Path on, for what is done to files
	// beside SQLite. Nil: the real one.
	FS durable.FS

	// VFS is SQLite's name for FS, which a test sets. Empty: the operating system's.
	VFS string
}

// A State is the directory as the commands of group 0 have made it, and satisfies
// replica.StateMachine. Apply and Checkpoint are called by one goroutine at a
// time; Service reads beside it, and sees every command applied before.
type State struct {
	cfg Config

	// mu guards what follows, and is held by whoever changes what viewMu guards.
	// Lock order: mu, viewMu.
	mu       sync.Mutex
	db       *database
	pending  int   // commands applied since the last commit
	commitAt int   // of pending: so many are committed
	failed   error // why no further command may be applied
	closed   bool
	watchers []func(Event)

	requoted      []Account // whose quota changed since watchers were told
	quotaWatchers []func(Account)
	changed       Event // since they were told

	copies    snapshot.Copies // for other nodes to read
	restoring *restorer       // nil: none
	digest    *xxhash.Digest
	scratch   []byte

	// viewMu guards what look-ups read without the database.
	viewMu  sync.Mutex
	meta    meta
	hashes  runhash.History
	domains map[string]domain
	cluster *cluster
	hot
}

// hot is what is in memory of single addresses, and agrees with the database.
type hot struct {
	addresses *addresses
	targets   *recent.Map[covey.Address, []covey.Address] // of aliases
	secrets   *recent.Map[covey.AccountID, secret]        // of accounts that are there
	names     *recent.Map[covey.AccountID, covey.Address] // under which the account was, when it was looked for
}

// A secret is what a password is verified against.
type secret struct{ hash, verifier string }

func newHot(cfg Config) hot {
	rows := max(cfg.CacheRows, 2)
	return hot{
		addresses: newAddresses(cfg.AddressBytes),
		targets:   recent.New[covey.Address, []covey.Address](rows),
		secrets:   recent.New[covey.AccountID, secret](rows),
		names:     recent.New[covey.AccountID, covey.Address](rows),
	}
}

// meta is the row of the meta table.
type meta struct {
	applied     uint64
	hash        uint64 // see State.Hash
	cluster     covey.ClusterID
	shards      uint32
	nextAccount covey.AccountID
	nextDomain  int64
	accounts    int64
	unverified  int64
	quota       int64
	postmaster  covey.Address
	level       uint32
	replicas    int
	rebuild     time.Duration
}

// A domain is a row of the domain table.
type domain struct {
	id       int64
	created  time.Time
	accounts int64
	aliases  int64
}

// A row is what the directory has under one address: an account, an alias, or
// nothing.
type row struct {
	account *Credentials
	targets []covey.Address // not changed once read
}

func (r row) empty() bool { return r.account == nil && r.targets == nil }

func (r row) entry() entry {
	switch {
	case r.account != nil:
		return entry{anAccount, r.account.Account}
	case r.targets != nil:
		return entry{kind: anAlias}
	}
	return entry{}
}

// OpenState opens the database, or makes an empty one. It fails if another process
// has it open. The State holds the file until Close.
func OpenState(cfg Config) (*State, error) {
	if cfg.CacheRows <= 0 {
		cfg.CacheRows = 65_536
	}
	if cfg.AddressBytes <= 0 {
		cfg.AddressBytes = 128 << 20
	}
	if cfg.FS == nil {
		cfg.FS = durable.OS()
	}
	if err := snapshot.Tidy(cfg.FS, cfg.Path); err != nil {
		return nil, fmt.Errorf("open directory %s: %w", cfg.Path, err)
	}
	return open(cfg)
}

func open(cfg Config) (*State, error) {
	db, err := openDatabase(cfg)
	if err != nil {
		return nil, fmt.Errorf("open directory %s: %w", cfg.Path, err)
	}
	s := &State{cfg: cfg, db: db, commitAt: commitEvery, digest: xxhash.New()}
	if err := s.reload(); err != nil {
		return nil, errors.Join(fmt.Errorf("read directory %s: %w", cfg.Path, err), db.close())
	}
	s.changed = 0 // nobody watches yet
	return s, nil
}

// Applied returns the index of the last command applied; after opening, of the
// last one that a commit kept.
func (s *State) Applied() uint64 {
	s.viewMu.Lock()
	defer s.viewMu.Unlock()
	return s.meta.applied
}

// Hash returns Applied, and the running hash over all commands up to it and over
// what each did. Replicas with the same index have the same hash. One that was
// made by a program without it counts from when it was opened first by one with
// it.
func (s *State) Hash() (index, hash uint64) {
	s.viewMu.Lock()
	defer s.viewMu.Unlock()
	return s.meta.applied, s.meta.hash
}

// HashAt returns the running hash over everything up to index, and false if that
// is not known any more, or not yet; see runhash.History.
func (s *State) HashAt(index uint64) (hash uint64, ok bool) {
	s.viewMu.Lock()
	defer s.viewMu.Unlock()
	return s.hashes.At(index)
}

// Apply applies commands with ascending indexes above Applied and returns one
// result for each: an error, or what the command's comment says. Its effects are
// visible when it returns, and on disk after Checkpoint. A command that cannot be
// decoded, and a fault of the disk, are panics with an error; the State then
// applies nothing more.
func (s *State) Apply(cmds []seglog.Command) []any {
	results := s.apply(cmds)
	s.tell()
	return results
}

func (s *State) apply(cmds []seglog.Command) []any {
	s.mu.Lock()
	defer s.mu.Unlock()
	results := make([]any, len(cmds))
	for i, c := range cmds {
		if s.failed == nil {
			results[i], s.failed = s.applyOne(c)
		}
		if s.failed != nil {
			panic(fmt.Errorf("directory: apply command %d: %w", c.Index, s.failed))
		}
	}
	return results
}

func (s *State) applyOne(c seglog.Command) (any, error) {
	if s.closed {
		return nil, covey.Errorf(covey.Unavailable, "directory is closed")
	}
	if applied := s.Applied(); c.Index <= applied {
		return nil, fmt.Errorf("index is not above %d", applied)
	}
	cmd, err := Decode(c.Data)
	if err != nil {
		return nil, err
	}
	if s.pending > 0 && s.db.conn.AutocommitEnabled() {
		return nil, s.commitLocked() // says why not
	}
	if err := s.db.begin(); err != nil {
		return nil, err
	}
	result, err := s.execute(cmd)
	if err != nil {
		return nil, err
	}
	s.fold(c, result)
	if s.pending++; s.pending >= s.commitAt {
		err = s.commitLocked()
	}
	return result, err
}

// fold notes that a command was applied, and adds it and what came of it to the
// running hash.
func (s *State) fold(c seglog.Command, result any) {
	s.change(func(m *meta) {
		m.applied = c.Index
		b := s.scratch[:0]
		for _, v := range []uint64{m.hash, c.Index, uint64(m.nextAccount), uint64(m.nextDomain), uint64(m.accounts), s.cluster.epoch} {
			b = wire.AppendUint(b, v)
		}
		if err, refused := result.(error); refused {
			b = append(b, 1, byte(covey.KindOf(err)))
		}
		s.digest.Reset()
		s.digest.Write(b)
		s.digest.Write(c.Data)
		m.hash, s.scratch = s.digest.Sum64(), b
		s.hashes.Add(m.applied, m.hash)
	})
}

// change changes meta for readers. The database follows at the next commit.
func (s *State) change(f func(*meta)) {
	s.viewMu.Lock()
	defer s.viewMu.Unlock()
	f(&s.meta)
}

// commitLocked ends the open transaction, if there is one.
func (s *State) commitLocked() error {
	if s.pending == 0 {
		return nil
	}
	if s.db.conn.AutocommitEnabled() {
		// A read can be what finds no room, and the transaction is gone. Alone,
		// the row of meta would vouch for commands that are not there.
		return covey.Errorf(covey.DiskFull, "commit: SQLite has rolled %d commands back", s.pending)
	}
	m := s.meta
	err := s.db.exec(`UPDATE meta SET applied = ?, cluster = ?, shards = ?, next_account = ?, next_domain = ?,
		accounts = ?, unverified = ?, quota = ?, postmaster_local = ?, postmaster_domain = ?,
		level = ?, replicas = ?, rebuild_after = ?, hash = ?`,
		int64(m.applied), m.cluster[:], int64(m.shards), int64(m.nextAccount), m.nextDomain,
		m.accounts, m.unverified, m.quota, m.postmaster.Local, m.postmaster.Domain,
		int64(m.level), int64(m.replicas), int64(m.rebuild/time.Second), int64(m.hash))
	if err == nil {
		err = s.db.exec("COMMIT")
	}
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	s.pending, s.commitAt = 0, commitEvery
	if err := s.db.boundLog(); err != nil {
		return err
	}
	return s.db.exec("PRAGMA cache_spill = ON")
}

// Checkpoint puts everything applied on stable storage and returns the index that
// this covers.
func (s *State) Checkpoint() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.checkpointLocked()
}

func (s *State) checkpointLocked() (uint64, error) {
	if s.closed {
		return 0, covey.Errorf(covey.Unavailable, "directory is closed")
	}
	if s.failed == nil {
		s.failed = s.commitLocked()
	}
	if s.failed == nil {
		s.failed = s.db.checkpoint()
	}
	if s.failed != nil {
		return 0, fmt.Errorf("checkpoint directory: %w", s.failed)
	}
	return s.Applied(), nil
}

// Recover makes the State usable again after Apply panicked, or Checkpoint
// failed, with covey.DiskFull. It goes back to the last commit, whose index it
// gives to replay, and applies what replay hands it from there, in memory alone.
// Readers see the state before or the one after, nothing between. After an error
// the State applies nothing more.
func (s *State) Recover(replay func(after uint64, apply func([]seglog.Command) []any) error) error {
	err := s.recover(replay)
	s.tell()
	return err
}

func (s *State) recover(replay func(after uint64, apply func([]seglog.Command) []any) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return covey.Errorf(covey.Unavailable, "directory is closed")
	}
	s.db.close() // its error would be the one that led here
	again, err := open(s.cfg)
	if err == nil {
		s.db = again.db
		again.commitAt = math.MaxInt
		if err = again.db.exec("PRAGMA cache_spill = OFF"); err == nil {
			err = replay(again.Applied(), again.Apply)
		}
	}
	if s.failed = err; err != nil {
		return fmt.Errorf("recover directory: %w", err)
	}
	s.pending, s.commitAt = again.pending, again.pending+commitEvery
	s.viewMu.Lock()
	defer s.viewMu.Unlock()
	s.meta, s.domains, s.cluster, s.hot, s.hashes = again.meta, again.domains, again.cluster, again.hot, again.hashes
	s.changed = everything
	return nil
}

// Close checkpoints, unless a command failed, and releases the file. It may be
// called twice.
func (s *State) Close() error {
	s.mu.Lock()
	r := s.restoring
	s.mu.Unlock()
	var err error
	if r != nil {
		err = r.Abort()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	err = errors.Join(err, s.copies.Close())
	if s.failed == nil {
		_, cerr := s.checkpointLocked()
		err = errors.Join(err, cerr)
	}
	s.closed = true
	s.viewMu.Lock()
	s.addresses.forgetAll() // or what is not there would be denied from memory
	s.viewMu.Unlock()
	return errors.Join(err, s.db.close())
}
