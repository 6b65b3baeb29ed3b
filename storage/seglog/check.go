package seglog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
)

// Check reads every record of every segment in cfg.Dir and returns each fault,
// nil if there is none. It changes nothing. A torn tail of the newest segment is
// no fault: Open cuts it off. The log should not be open for writing meanwhile.
func Check(cfg Config) []error {
	if err := cfg.validate(); err != nil {
		return []error{err}
	}
	numbers, err := listSegments(cfg.FS, cfg.Dir, nil)
	if err != nil {
		return []error{fmt.Errorf("check log %s: %w", cfg.Dir, err)}
	}
	var faults []error
	var prev *checker
	for i, n := range numbers {
		c := &checker{number: n, newest: i == len(numbers)-1}
		if err := c.check(cfg); err != nil {
			c.report(covey.KindOf(err), "%w", err)
		}
		if prev != nil && prev.number == n-1 && prev.end > 0 && c.prevEnd > 0 && prev.end != c.prevEnd {
			c.report(covey.Corrupt, "the segment before ends at %d, it ended at %d once", prev.end, c.prevEnd)
		}
		faults = append(faults, c.faults...)
		prev = c
	}
	return faults
}

// A checker reads one segment.
type checker struct {
	number  uint64
	newest  bool
	prevEnd int64
	end     int64 // of the records; 0: not found
	items   []item
	faults  []error
}

func (c *checker) report(kind covey.Kind, format string, args ...any) {
	err := fmt.Errorf(format, args...)
	c.faults = append(c.faults, covey.Errorf(kind, "segment %d: %w", c.number, err))
}

func (c *checker) check(cfg Config) error {
	f, err := cfg.FS.Open(filepath.Join(cfg.Dir, segmentName(c.number)), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	h, start, err := readHeader(f, c.number)
	if err != nil {
		return err
	}
	c.prevEnd = h.prevEnd
	sc, err := newScanner(f, h.salt, start)
	if err != nil {
		return err
	}
	cause := c.records(sc)
	if isDiskError(cause) {
		return fmt.Errorf("at offset %d: %w", sc.off, cause)
	}
	if cause == nil {
		c.end = sc.off
		c.footer(f, &segment{number: c.number, salt: h.salt, start: start, size: sc.size})
		return nil
	}
	if !c.newest {
		c.report(covey.Corrupt, "damage at offset %d: %w", sc.off, cause)
		return nil
	}
	promised, _, err := sc.promised(sc.off)
	if err == nil && promised > sc.off {
		c.report(covey.Corrupt, "damage at offset %d: %w, though it was on stable storage up to %d", sc.off, cause, promised)
	}
	return err
}

// records reads to the footer, where it returns nil, or to what is no record. A
// payload that does not match its checksum is reported and passed over if
// another record follows it.
func (c *checker) records(sc *scanner) error {
	for {
		r, _, err := sc.next()
		if errors.Is(err, errBody) {
			if !c.pass(sc, r) {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		off := sc.off - r.size()
		switch r.kind {
		case kindFooter:
			sc.off = off
			return nil
		case kindEntry:
			c.items = append(c.items, itemOf(&r, off))
		}
	}
}

// pass skips a record with a damaged payload, if that is no torn tail and the
// next record is good: its place in the footer still counts.
func (c *checker) pass(sc *scanner, r record) bool {
	off := sc.off
	if r.kind == kindFooter {
		return false
	}
	if promised, _, err := sc.promised(off); c.newest && (err != nil || promised <= off) {
		return false
	}
	sc.off += r.size()
	if _, err := sc.head(); err != nil {
		sc.off = off
		return false
	}
	c.report(covey.Corrupt, "damage at offset %d: %w (record of type %d, group %d, index %d)", off, errBody, r.kind, r.group, r.index)
	if r.kind == kindEntry {
		c.items = append(c.items, itemOf(&r, off))
	}
	return true
}

// footer compares the footer with the records.
func (c *checker) footer(f durable.File, s *segment) {
	end, items, err := readFooter(f, s)
	switch {
	case err != nil && c.newest:
		return // torn while it was sealed
	case err != nil:
		c.report(covey.Corrupt, "footer: %w", err)
		return
	}
	if end != c.end || len(items) != len(c.items) {
		c.report(covey.Corrupt, "footer: %d entries up to %d, but the records are %d up to %d", len(items), end, len(c.items), c.end)
		return
	}
	for i := range items {
		if items[i] != c.items[i] {
			c.report(covey.Corrupt, "footer: entry at offset %d differs from its record", c.items[i].offset)
			return
		}
	}
}
