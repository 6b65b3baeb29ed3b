package seglog

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
)

// A segment is one file of the log.
type segment struct {
	number uint64
	salt   uint64
	start  int64 // where the records begin

	// Guarded by Log.mu, and changed only under Log.write.
	end    int64 // where the records end; of a sealed one, where the file ends
	size   int64 // of the file
	sealed bool

	marked int64 // a batch without content that ends here says that all was synced

	file durable.File // nil: not open; guarded by files.mu
}

// files bounds how many segments are open at a time. The zero value is ready.
type files struct {
	mu     sync.Mutex // guards what follows, and segment.file
	opened []*segment // sealed ones, in the order of their opening
	closed bool
}

// maxOpen is how many sealed segments are kept open.
const maxOpen = 128

func segmentName(number uint64) string { return fmt.Sprintf("%016x%s", number, segmentSuffix) }

func parseSegmentName(name string) (uint64, bool) {
	hex, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(hex) != 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(hex, 16, 64)
	return n, err == nil && n > 0 && segmentName(n) == name
}

// open returns the segment's file. It may be closed, to make room for another,
// while the caller reads from it: fs.ErrClosed then, and the caller asks again.
func (l *Log) open(s *segment) (durable.File, error) {
	l.files.mu.Lock()
	defer l.files.mu.Unlock()
	if s.file != nil {
		return s.file, nil
	}
	if l.files.closed {
		return nil, covey.Errorf(covey.Unavailable, "log is closed")
	}
	f, err := l.cfg.FS.Open(filepath.Join(l.cfg.Dir, segmentName(s.number)), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open segment %d: %w", s.number, err)
	}
	s.file = f
	l.files.addLocked(s)
	return f, nil
}

// keep takes a segment's file out of the bound: it is the one being written, and
// must not be closed. s.file is open.
func (fs *files) keep(s *segment) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.opened = slices.DeleteFunc(fs.opened, func(t *segment) bool { return t == s })
}

// add puts a segment that was written under the bound.
func (fs *files) add(s *segment) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.addLocked(s)
}

func (fs *files) addLocked(s *segment) {
	fs.opened = append(fs.opened, s)
	if len(fs.opened) > maxOpen {
		fs.closeLocked(fs.opened[0])
		fs.opened = slices.Delete(fs.opened, 0, 1)
	}
}

// drop closes a segment's file.
func (fs *files) drop(s *segment) {
	fs.keep(s)
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.closeLocked(s)
}

func (fs *files) closeLocked(s *segment) {
	if s.file != nil {
		s.file.Close() // all that was promised of it is synced
		s.file = nil
	}
}

// readHeader reads and checks the header of a segment file.
func readHeader(f durable.File, number uint64) (*header, int64, error) {
	size, err := f.Size()
	if err != nil {
		return nil, 0, err
	}
	p := make([]byte, min(size, 4<<10))
	if err := readFull(f, p, 0); err != nil {
		return nil, 0, err
	}
	n, err := headerLength(p)
	if err != nil {
		return nil, 0, err
	}
	if int64(n) > size {
		return nil, 0, covey.Errorf(covey.Corrupt, "segment header is cut off")
	}
	if n > len(p) {
		p = make([]byte, n)
		if err := readFull(f, p, 0); err != nil {
			return nil, 0, err
		}
	}
	h, err := parseHeader(p[:n])
	if err != nil {
		return nil, 0, err
	}
	if h.number != number {
		return nil, 0, covey.Errorf(covey.Corrupt, "file holds segment %d", h.number)
	}
	return h, int64(n), nil
}

// readFull fills p from offset. The end of the file is io.ErrUnexpectedEOF.
func readFull(f io.ReaderAt, p []byte, offset int64) error {
	n, err := f.ReadAt(p, offset)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
