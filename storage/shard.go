package storage

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/internal/snapshot"
	"github.com/covey-mail/covey/storage/seglog"
)

// A Config says how to open a shard. The zero value but for Path will do.
type Config struct {
	Shard covey.ShardID
	Path  string // of the database file; one for each shard

	// Changed is called after a command's changes to a mailbox can be seen, with
	// no lock held, from the goroutine that applies. It must not block. Nil: no
	// one wants to know.
	Changed func(covey.AccountID, covey.MailboxID)

	// Replaced is called when Install has put another state in the place of the
	// old one: any mailbox may have changed. As Changed is. Nil: no one wants to
	// know.
	Replaced func()

	// Log is where the shard's bodies lie, for Snapshot and Restore to read and
	// write them. Nil: it can neither be copied nor restored.
	Log *seglog.Log

	// FS is the file system that SQLite has Path on, for what is done to files
	// beside SQLite. Nil: the real one.
	FS durable.FS

	// VFS is SQLite's name for FS, which a test sets. Empty: the operating system's.
	VFS string

	// Clock decides when half a minute has passed since a commit, and nothing
	// else. Nil: time.Now.
	Clock func() time.Time

	// Mailboxes is how many mailboxes are kept in memory, at 0.5 to 1.5 KiB each.
	// 0: 16384.
	Mailboxes int

	// CacheBytes bounds the database's page cache. 0: 16 MiB.
	CacheBytes int64

	Logger *slog.Logger // nil: silent
}

func (c Config) withDefaults() Config {
	if c.Changed == nil {
		c.Changed = func(covey.AccountID, covey.MailboxID) {}
	}
	if c.Replaced == nil {
		c.Replaced = func() {}
	}
	if c.FS == nil {
		c.FS = durable.OS()
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Mailboxes <= 0 {
		c.Mailboxes = 16384
	}
	if c.CacheBytes <= 0 {
		c.CacheBytes = 16 << 20
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Logger = c.Logger.With("component", "storage", "shard", uint32(c.Shard))
	return c
}

// Work between two commits: the log keeps it meanwhile, and larger transactions
// write each page less often.
const (
	commitCommands = 1000
	commitBytes    = 64 << 20 // of commands
	commitAfter    = 30 * time.Second

	// commitAgain is how long no commit is tried after one that found no room: it
	// would be rolled back, and all since the one before applied again.
	commitAgain = 2 * time.Second
)

// A shard is a State over tables.
type shard struct {
	cfg Config

	mu     sync.Mutex // guards all below, and the tables
	m      *machine
	broken error // why nothing more is done: a fault, a panic inside a command, or closed
	closed bool

	commands int // since the last commit, with their bytes and when the first came
	bytes    int64
	since    time.Time
	notUntil time.Time // no commit is due before; zero but on a full disk

	reopen func() (*machine, error) // the state of the last commit; nil in memory

	copies    snapshot.Copies // for other nodes to read
	restoring *restorer       // nil: none
}

func newShard(cfg Config, m *machine) *shard {
	return &shard{cfg: cfg.withDefaults(), m: m}
}

// Applied implements State.
func (s *shard) Applied() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m.meta.applied
}

// Hash implements State.
func (s *shard) Hash() (index, hash uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m.meta.applied, s.m.meta.hash
}

// HashAt implements State.
func (s *shard) HashAt(index uint64) (hash uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m.hashes.At(index)
}

// Apply implements State.
func (s *shard) Apply(cmds []seglog.Command) []any {
	results := make([]any, len(cmds))
	for i, c := range cmds {
		r, touched := s.applyOne(c)
		for i, t := range touched {
			if i == 0 || t != touched[i-1] {
				s.cfg.Changed(t.account, t.mailbox)
			}
		}
		results[i] = r
	}
	return results
}

// unfinished is a shard's fault while it applies a command. It is made for each,
// so its text is not.
type unfinished struct {
	shard covey.ShardID
	index uint64
}

// Error implements error.
func (u unfinished) Error() string {
	return fmt.Sprintf("shard %d: command %d was not finished", u.shard, u.index)
}

// applyOne applies one command and commits if it is time. The touched mailboxes
// are valid until the next call.
func (s *shard) applyOne(c seglog.Command) (*Result, []touch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		panic(s.broken)
	}
	if c.Index <= s.m.meta.applied {
		panic(fmt.Errorf("shard %d: command %d applied after %d", s.cfg.Shard, c.Index, s.m.meta.applied))
	}
	// Should the command panic, what it left half done is never committed.
	s.broken = unfinished{s.cfg.Shard, c.Index}
	if s.commands == 0 {
		s.since = s.cfg.Clock()
	}
	r, err := s.m.apply(c)
	s.commands++
	s.bytes += int64(len(c.Data))
	if err == nil && s.commitDue() {
		s.commit()
	}
	s.m.t.trim()
	if err == nil {
		err = s.m.t.fault()
	}
	if err != nil {
		s.broken = fmt.Errorf("shard %d: %w", s.cfg.Shard, err)
		panic(s.broken)
	}
	s.broken = nil
	return r, s.m.touched
}

func (s *shard) commitDue() bool {
	now := s.cfg.Clock()
	due := s.commands >= commitCommands || s.bytes >= commitBytes || now.Sub(s.since) >= commitAfter
	return due && !now.Before(s.notUntil)
}

func (s *shard) commit() {
	s.m.t.commit(s.m)
	s.commands, s.bytes = 0, 0
}

// Recover implements State.
func (s *shard) Recover(replay func(after uint64, apply func([]seglog.Command) []any) error) error {
	touched := map[touch]bool{}
	if err := s.recover(replay, touched); err != nil {
		return fmt.Errorf("recover shard %d: %w", s.cfg.Shard, err)
	}
	for t := range touched {
		s.cfg.Changed(t.account, t.mailbox)
	}
	return nil
}

// recover replays into a shard of its own and then takes its place, so that no
// one sees what lies between.
func (s *shard) recover(replay func(uint64, func([]seglog.Command) []any) error, touched map[touch]bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return s.broken
	case s.reopen == nil:
		return covey.Errorf(covey.Invalid, "there is nothing on the disk")
	}
	s.m.t.close() // its error would be the one that led here
	m, err := s.reopen()
	if err != nil {
		s.broken = err
		return err
	}
	m.t.stay()
	again := &shard{cfg: s.cfg, m: m}
	again.cfg.Changed = func(a covey.AccountID, mb covey.MailboxID) { touched[touch{a, mb}] = true }
	now := s.cfg.Clock()
	again.cfg.Clock = func() time.Time { return now } // no commit becomes due
	again.notUntil = now.Add(commitAgain)
	err = replay(m.meta.applied, again.Apply)
	s.m, s.broken = m, err
	s.commands, s.bytes, s.since, s.notUntil = again.commands, again.bytes, again.since, s.cfg.Clock().Add(commitAgain)
	return err
}

// Checkpoint implements State.
func (s *shard) Checkpoint() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.checkpoint()
}

func (s *shard) checkpoint() (uint64, error) {
	if s.broken != nil {
		return 0, s.broken
	}
	s.commit()
	s.m.t.checkpoint()
	if err := s.m.t.fault(); err != nil {
		s.broken = fmt.Errorf("checkpoint shard %d: %w", s.cfg.Shard, err)
		return 0, s.broken
	}
	return s.m.meta.applied, nil
}

// Close implements State.
func (s *shard) Close() error {
	s.mu.Lock()
	r := s.restoring
	s.mu.Unlock()
	if r != nil {
		if err := r.Abort(); err != nil {
			s.cfg.Logger.Warn("what a copy left will be removed at the next start", "error", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if err := s.copies.Close(); err != nil {
		s.cfg.Logger.Warn("what a copy left will be removed at the next start", "error", err)
	}
	_, err := s.checkpoint()
	if cerr := s.m.t.close(); err == nil {
		err = cerr
	}
	s.broken = covey.Errorf(covey.Unavailable, "shard %d is closed", s.cfg.Shard)
	return err
}

// Check implements State.
func (s *shard) Check(ctx context.Context) []error {
	var list []error
	err := s.read(func() error {
		list = s.m.t.check(ctx, s.m)
		return nil
	})
	if err != nil {
		list = append(list, err)
	}
	return list
}

// read runs fn with the tables held still, and returns its error or the tables'.
func (s *shard) read(fn func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return s.broken
	}
	err := fn()
	s.m.t.trim()
	if f := s.m.t.fault(); f != nil {
		s.broken = fmt.Errorf("read shard %d: %w", s.cfg.Shard, f)
		return s.broken
	}
	return err
}

// Account implements Reader.
func (s *shard) Account(id covey.AccountID) (Account, error) {
	out := Account{ID: id}
	err := s.read(func() error {
		if a := s.m.t.account(id); a != nil {
			out.Bytes, out.Messages, out.Hidden = a.bytes, a.messages, slices.Clone(a.hidden)
		}
		return nil
	})
	return out, err
}

// Mailboxes implements Reader.
func (s *shard) Mailboxes(id covey.AccountID) ([]Mailbox, error) {
	var list []Mailbox
	err := s.read(func() error {
		rows := s.m.t.mailboxes(id, "")
		for _, name := range s.m.t.subscriptions(id) {
			for len(rows) > 0 && rows[0].Name < name {
				list = append(list, rows[0].public())
				rows = rows[1:]
			}
			mb := Mailbox{Account: id, Name: name}
			if len(rows) > 0 && rows[0].Name == name {
				mb = rows[0].public()
				rows = rows[1:]
			}
			mb.Subscribed = true
			list = append(list, mb)
		}
		for _, mb := range rows {
			list = append(list, mb.public())
		}
		return nil
	})
	return list, err
}

// Mailbox implements Reader.
func (s *shard) Mailbox(id covey.AccountID, name string) (Mailbox, error) {
	var out Mailbox
	err := s.read(func() error {
		clean, err := CleanName(name)
		if err != nil {
			return covey.Errorf(covey.NotFound, "mailbox of account %d: %w", id, err)
		}
		mb := s.m.t.mailboxNamed(id, clean)
		if mb == nil {
			return covey.Errorf(covey.NotFound, "mailbox %q of account %d", clean, id)
		}
		out = mb.public()
		return nil
	})
	return out, err
}

// View implements Reader.
func (s *shard) View(a covey.AccountID, id covey.MailboxID) (out Mailbox, uids []UIDRange, unseen covey.UID, err error) {
	err = s.read(func() error {
		mb, err := s.m.find(a, id)
		if err != nil {
			return err
		}
		out = mb.public()
		uids, unseen = s.m.view(mb)
		return nil
	})
	return out, uids, unseen, err
}

// Messages implements Reader.
func (s *shard) Messages(ctx context.Context, q Query, fn func(*Message) error) error {
	in := span{mailbox: q.Mailbox, uids: []UIDRange{{1, 1<<32 - 1}}, since: q.Since, summary: q.Summary, extents: q.Extents}
	if q.UIDs != nil {
		in.uids = normalise(q.UIDs, 1<<32-1)
	}
	in.again = q.Summary || countUIDs(in.uids) <= fewRows
	for first := true; first || len(in.uids) > 0; first = false {
		if err := ctx.Err(); err != nil {
			return err
		}
		var list []Message
		err := s.read(func() error {
			if mb := s.m.t.mailbox(q.Mailbox); mb == nil || mb.NoSelect {
				return covey.Errorf(covey.NotFound, "mailbox %d", q.Mailbox)
			}
			list = s.m.t.messages(&in, sliceRows)
			return nil
		})
		if err != nil {
			return err
		}
		for i := range list {
			if err := fn(&list[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// Changes implements Reader.
func (s *shard) Changes(a covey.AccountID, id covey.MailboxID, since covey.ModSeq) (Changes, error) {
	var out Changes
	err := s.read(func() error {
		mb, err := s.m.find(a, id)
		if err != nil {
			return err
		}
		out.Mailbox = mb.public()
		if since >= mb.HighestModSeq {
			return nil
		}
		uids, ok := mb.recent.since(since)
		if !ok {
			uids = []UIDRange{{1, 1<<32 - 1}}
		}
		in := span{mailbox: id, uids: uids, since: since}
		for len(in.uids) > 0 {
			out.Changed = append(out.Changed, s.m.t.messages(&in, sliceRows)...)
		}
		if since < mb.horizon {
			out.Expunged = without(s.m.roll(id).uids, mb.UIDNext-1)
		} else {
			out.Expunged = normalise(s.m.t.expunged(id, since), 1<<32-1)
		}
		return nil
	})
	return out, err
}

// Body implements Reader.
func (s *shard) Body(id covey.BodyID) ([]seglog.Extent, error) {
	var list []seglog.Extent
	err := s.read(func() error {
		var ok bool
		if list, ok = s.m.t.extents(id); !ok {
			return covey.Errorf(covey.NotFound, "body %d of shard %d", id, s.cfg.Shard)
		}
		return nil
	})
	return list, err
}
