// Package snapshot is what a state machine and the Raft group that drives it
// agree on about copies of the whole state: one replica's Snapshot is read in
// chunks, carried to another, and put together there by a Restorer.
//
// It has the contracts, the format of the chunks (format.go), a file copy that
// goes on beside its owner's work, and the steps by which a staged database takes
// the place of the old one (stage.go). What is in a database, and what it refers
// to outside, is the state machine's business; how chunks travel, and in which
// order they are asked for, is the group's.
//
// Limits: 1 MiB a chunk, 256 KiB a piece.
package snapshot

// ChunkSize bounds a chunk, in bytes.
const ChunkSize = 1 << 20

// MetaSize bounds what is kept with an installed copy, in bytes.
const MetaSize = 64 << 10

// A Snapshot is a copy of a state as of one command, in chunks. It stays as it
// is while later commands are applied, and holds disk room until it is closed.
type Snapshot interface {
	// Index returns the index of the last command that is part of it.
	Index() uint64

	// ReadChunk returns chunk n, counted from 0; io.EOF behind the last. Any
	// chunk may be read at any time and again, and is the same bytes each time;
	// reading them in ascending order is cheapest. It blocks on the disk and is
	// not to be called concurrently, Close aside. The bytes are the caller's.
	//
	// covey.Unavailable: the state was closed or replaced meanwhile. Any error but
	// io.EOF is of this copy, not of the state: close it, and take another.
	ReadChunk(n uint64) ([]byte, error)

	// Close gives back what the copy holds. It may be called twice, and waits for
	// a ReadChunk under way.
	Close() error
}

// A Restorer takes in a copy of a state made elsewhere. Nothing of it can be
// seen, or survives a restart of the process, before it is installed. Its
// methods are called by one goroutine at a time and block on the disk.
type Restorer interface {
	// WriteChunk takes the next chunk of a Snapshot, from 0 on without gaps. The
	// bytes are not kept. covey.Corrupt: they are no part of a copy of this
	// state; covey.DiskFull: there is no room. After an error the only call left
	// is Abort.
	WriteChunk(b []byte) error

	// Stage is called when all chunks were written. It verifies the copy, makes
	// it durable, and returns the index of the last command in it. A copy that is
	// cut off or does not match its checksum is covey.Corrupt. After an error the
	// only call left is Abort.
	Stage() (index uint64, err error)

	// Abort drops what was taken in. After an Install, and when called again, it
	// does nothing.
	Abort() error
}
