package replica

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/internal/durable/durabletest"
	"github.com/covey-mail/covey/storage/seglog"
)

// A recorder is a state machine that remembers what it applied. What survives a
// crash is its last checkpoint, or the last copy installed: in memory, or on a
// disk if it has one.
type recorder struct {
	fs   durable.FS // nil: in memory
	path string

	mu       sync.Mutex
	chain    chain
	durable  chain
	meta     []byte        // of the last copy installed
	panicOn  string        // a command it cannot stand
	full     bool          // Apply and Checkpoint find no room, until Recover
	gate     chan struct{} // not nil: Apply waits for a token, or for its closing
	closed   int
	checks   int
	checkErr error
	read     func(e seglog.Extent, p []byte) error // not nil: every place is verified
	fault    error

	recovered  int
	recoverErr error

	chunk       int  // octets in a chunk of a copy; 0: 1 KiB
	shared      bool // Snapshot returns the copy that is open already, if there is one
	copies      []*copied
	restoring   *restorer
	installErr  error // of Install, once …
	installFull bool  // … or for ever
	stages      int   // copies staged
}

var errNoRoom = covey.Errorf(covey.DiskFull, "no room")

// A chain is the commands applied and a running hash of them, so that replicas
// that diverge never agree again.
type chain struct {
	Index    uint64
	Commands []string
	Indexes  []uint64
	Hash     [32]byte
}

// clipped returns a chain that shares nothing that changes.
func (c chain) clipped() chain {
	c.Commands, c.Indexes = slices.Clip(c.Commands), slices.Clip(c.Indexes)
	return c
}

func (c *chain) add(index uint64, command string) {
	c.Index = index
	c.Commands = append(c.Commands, command)
	c.Indexes = append(c.Indexes, index)
	b := binary.LittleEndian.AppendUint64(c.Hash[:], index)
	c.Hash = sha256.Sum256(append(b, command...))
}

func (r *recorder) Applied() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.chain.Index
}

func (r *recorder) Apply(commands []seglog.Command) []any {
	if r.gate != nil {
		<-r.gate
	}
	results := make([]any, 0, len(commands))
	for _, c := range commands {
		results = append(results, r.applyOne(c))
	}
	return results
}

func (r *recorder) applyOne(c seglog.Command) any {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.panicOn != "" && string(c.Data) == r.panicOn {
		panic("poison")
	}
	if c.Index <= r.chain.Index {
		r.fault = fmt.Errorf("entry %d applied after %d", c.Index, r.chain.Index)
	}
	if r.read != nil {
		p := make([]byte, c.Place.Length)
		err := r.read(c.Place, p)
		if !errors.Is(err, durabletest.ErrPower) && (err != nil || string(p) != string(c.Data)) {
			r.fault = fmt.Errorf("entry %d: at %+v lies %.40q (%v), want %.40q", c.Index, c.Place, p, err, c.Data)
		}
	}
	r.chain.add(c.Index, string(c.Data))
	if r.full {
		panic(errNoRoom)
	}
	return result(string(c.Data))
}

// result is what applying a command returns.
func result(command string) any { return sha256.Sum256([]byte(command)) }

func (r *recorder) Checkpoint() (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.checks++
	if r.full {
		return 0, errNoRoom
	}
	if r.checkErr != nil {
		return 0, r.checkErr
	}
	if err := r.keep(r.path, r.chain, r.meta); err != nil {
		return 0, err
	}
	r.durable = r.chain
	return r.chain.Index, nil
}

// Recover goes back to the last checkpoint.
func (r *recorder) Recover(replay Replay) error {
	r.mu.Lock()
	if r.recoverErr != nil {
		r.mu.Unlock()
		return r.recoverErr
	}
	r.chain, r.full = r.durable.clipped(), false
	r.recovered++
	after := r.chain.Index
	r.mu.Unlock()
	return replay(after, r.Apply)
}

func (r *recorder) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed++
	if len(r.copies) > 0 || r.restoring != nil {
		r.fault = fmt.Errorf("closed with %d copies open, and one being taken in: %t", len(r.copies), r.restoring != nil)
	}
	return nil
}

// now returns what was applied so far.
func (r *recorder) now() chain {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.chain
}

// restarted returns the state machine as it is found after a crash.
func (r *recorder) restarted() *recorder {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.durable.clipped()
	return &recorder{chain: c, durable: c, meta: r.meta, chunk: r.chunk, shared: r.shared}
}

// reopened is restarted for one that has a disk.
func (r *recorder) reopened(fsys durable.FS) *recorder {
	next := newRecorder(fsys, r.path)
	next.chunk, next.shared = r.chunk, r.shared
	return next
}
