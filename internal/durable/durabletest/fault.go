package durabletest

import (
	"math/rand/v2"
	"path/filepath"
	"slices"
)

// An Op is a kind of operation that a Fault can hit.
type Op uint8

// The kinds of operation.
const (
	Open Op = iota + 1
	Read
	Write
	Sync
	Truncate
	Allocate
	Rename
	Remove
	SyncDir
)

// A Fault makes operations fail.
type Fault struct {
	Op    Op
	Match string // pattern of filepath.Match for the file's base name; empty: every file
	After int    // so many matching operations pass first
	Times int    // how many fail then; 0: one, negative: all
	Err   error  // what they return
	Short int    // how many bytes a Write takes before it fails
}

// Inject adds a fault. Faults are tried in the order of their injection.
func (d *Disk) Inject(f Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f.Times == 0 {
		f.Times = 1
	}
	d.faults = append(d.faults, &f)
}

// Heal removes all faults.
func (d *Disk) Heal() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = nil
}

// fault returns the fault that an operation meets, nil if none. d.mu is held.
func (d *Disk) fault(op Op, name string) *Fault {
	for _, f := range d.faults {
		if f.Op != op || f.Times == 0 {
			continue
		}
		if ok, _ := filepath.Match(f.Match, filepath.Base(name)); !ok && f.Match != "" {
			continue
		}
		if f.After > 0 {
			f.After--
			continue
		}
		if f.Times > 0 {
			f.Times--
		}
		return f
	}
	return nil
}

// Flip inverts the bits of mask in the octet at off, on the disk and for
// readers. It panics if there is no such octet.
func (d *Disk) Flip(name string, off int64, mask byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.live[filepath.Clean(name)]
	n.data[off] ^= mask
	if off < int64(len(n.stable)) {
		n.stable[off] ^= mask
	}
}

// Crash cuts the power, if it is not off yet, and turns it on again. Of each
// file what was synced is there; each sector written since has its old content,
// the new, or one in between; the size likewise. Of the changes to a folder's
// names since its SyncDir some first ones have happened. Open files are dead.
// The seed decides; seed 0 loses all that can be lost, and seed 1 nothing.
// Faults are healed.
func (d *Disk) Crash(seed uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	rnd := rand.New(rand.NewPCG(seed, 0x5eed))
	pick := func(n int) int { // how many of n operations happened
		switch seed {
		case 0:
			return 0
		case 1:
			return n
		}
		return rnd.IntN(n + 1)
	}
	for _, dir := range sortedKeys(d.names) {
		ops := d.names[dir]
		for _, op := range ops[:pick(len(ops))] {
			op.apply(d.stable)
		}
	}
	clear(d.names)
	clear(d.live)
	for _, name := range sortedKeys(d.stable) {
		n := d.stable[name]
		n.crash(pick)
		d.live[name] = n
	}
	d.boots++
	d.stop, d.faults = 0, nil
}

// crash settles what the pending operations have done.
func (n *inode) crash(pick func(int) int) {
	if len(n.pending) == 0 {
		n.data = slices.Clone(n.stable)
		return
	}
	size := int64(len(n.stable))
	touched := map[int64]bool{}
	for _, op := range n.pending {
		if op.data == nil {
			// Cutting off makes zeros of all sectors behind.
			for s := op.off / Sector; s*Sector < int64(len(n.stable)); s++ {
				touched[s] = true
			}
			continue
		}
		for s := op.off / Sector; s*Sector < op.off+int64(len(op.data)); s++ {
			touched[s] = true
		}
	}
	for _, op := range n.pending[:pick(len(n.pending))] {
		size = op.resize(size)
	}
	after := make([]byte, size)
	copy(after, n.stable)
	for _, s := range sortedKeys(touched) {
		if s*Sector >= size {
			continue
		}
		sector := n.sector(s, pick(len(n.pending)))
		copy(after[s*Sector:], sector[:])
	}
	n.stable, n.data, n.pending = after, slices.Clone(after), nil
}

// sector returns a sector after the first k pending operations.
func (n *inode) sector(s int64, k int) [Sector]byte {
	var p [Sector]byte
	from := s * Sector
	if from < int64(len(n.stable)) {
		copy(p[:], n.stable[from:])
	}
	for _, op := range n.pending[:k] {
		if op.data == nil {
			if op.off < from+Sector {
				clear(p[max(op.off-from, 0):])
			}
			continue
		}
		if lo, hi := max(op.off, from), min(op.off+int64(len(op.data)), from+Sector); lo < hi {
			copy(p[lo-from:hi-from], op.data[lo-op.off:hi-op.off])
		}
	}
	return p
}

func (op *writeOp) resize(size int64) int64 {
	if op.data == nil {
		return op.off
	}
	return max(size, op.off+int64(len(op.data)))
}

func sortedKeys[K string | int64, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
