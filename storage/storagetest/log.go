package storagetest

import (
	"hash/crc32"
	"sync"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage"
	"github.com/covey-mail/covey/storage/seglog"
)

// A Log is a log in memory: it gives commands an index and a place as a real one
// would, keeps their bytes, and so can hand them on again and read bodies back.
// The zero Log is empty. Its methods may be called by any number of goroutines.
type Log struct {
	SegmentSize int // 0: 1 MiB

	mu       sync.Mutex
	commands []seglog.Command
	segments map[uint64][]byte
	active   uint64
}

// Append logs a command under the next index.
func (l *Log) Append(c storage.Command) seglog.Command {
	data := storage.Encode(c)
	l.mu.Lock()
	defer l.mu.Unlock()
	e := seglog.Command{Index: uint64(len(l.commands)) + 1, Data: data, Place: l.put(data)}
	l.commands = append(l.commands, e)
	return e
}

// Put logs bytes that are no command, such as a body that was moved.
func (l *Log) Put(data []byte) seglog.Extent {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.put(data)
	e.Sum = crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))
	return e
}

func (l *Log) put(data []byte) seglog.Extent {
	size := l.SegmentSize
	if size == 0 {
		size = 1 << 20
	}
	if l.segments == nil || len(l.segments[l.active]) >= size {
		l.active++
		if l.segments == nil {
			l.segments = map[uint64][]byte{}
		}
		l.segments[l.active] = make([]byte, 16) // a header, so that offset 0 is no place
	}
	s := l.segments[l.active]
	l.segments[l.active] = append(s, data...)
	return seglog.Extent{Segment: l.active, Offset: uint32(len(s)), Length: uint32(len(data))}
}

// After returns the commands with indexes above one.
func (l *Log) After(index uint64) []seglog.Command {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]seglog.Command(nil), l.commands[index:]...)
}

// Read implements storage.BodyLog.
func (l *Log) Read(e seglog.Extent, p []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.segments[e.Segment]
	if !ok {
		return covey.Errorf(covey.NotFound, "segment %d", e.Segment)
	}
	if uint64(e.Offset)+uint64(e.Length) > uint64(len(s)) || len(p) != int(e.Length) {
		return covey.Errorf(covey.Corrupt, "segment %d ends before %d", e.Segment, e.Offset)
	}
	copy(p, s[e.Offset:])
	if e.Sum != 0 && crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)) != e.Sum {
		return covey.Errorf(covey.Corrupt, "segment %d at %d: checksum", e.Segment, e.Offset)
	}
	return nil
}

// Flip damages one byte.
func (l *Log) Flip(segment uint64, offset uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segments[segment][offset] ^= 0xff
}
