package seglog

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
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

	once sync.Mutex // guards file
	file durable.File
}

func segmentName(number uint64) string { return fmt.Sprintf("%016x%s", number, segmentSuffix) }

func parseSegmentName(name string) (uint64, bool) {
	hex, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(hex) != 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(hex, 16, 64)
	return n, err == nil && n > 0 && segmentName(n) == name
}

// open returns the segment's file.
func (l *Log) open(s *segment) (durable.File, error) {
	s.once.Lock()
	defer s.once.Unlock()
	if s.file == nil {
		f, err := l.cfg.FS.Open(filepath.Join(l.cfg.Dir, segmentName(s.number)), os.O_RDWR, 0)
		if err != nil {
			return nil, fmt.Errorf("open segment %d: %w", s.number, err)
		}
		s.file = f
	}
	return s.file, nil
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
