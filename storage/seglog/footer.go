package seglog

import (
	"errors"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
)

// readItems returns the entry records of a sealed segment, from its footer, or,
// if that is damaged, from the records themselves.
func (l *Log) readItems(s *segment, next *header) ([]item, error) {
	f, err := l.open(s)
	if err != nil {
		return nil, err
	}
	end, items, err := readFooter(f, s)
	if err == nil {
		return items, nil
	}
	if isDiskError(err) {
		return nil, err
	}
	l.cfg.Logger.Warn("footer is damaged, reading the whole segment", "segment", s.number, "reason", err)
	if end == 0 && next != nil && next.number == s.number+1 {
		end = next.prevEnd
	}
	return scanItems(f, s, end)
}

// readFooter reads a sealed segment's footer. The end of the records is 0 if
// even the trailer is damaged.
func readFooter(f durable.File, s *segment) (end int64, items []item, err error) {
	sc, err := newScanner(f, s.salt, s.size-recordHeader)
	if err != nil {
		return 0, nil, err
	}
	if sc.off < s.start || sc.off%align != 0 {
		return 0, nil, errShort
	}
	t, err := sc.head()
	if err != nil {
		return 0, nil, err
	}
	if t.kind != kindTrailer || int64(t.index) < s.start || int64(t.index) > sc.off-recordHeader {
		return 0, nil, errFields
	}
	end = int64(t.index)
	sc.off = end
	r, err := sc.head()
	if err != nil {
		return end, nil, err
	}
	if r.kind != kindFooter || end+r.size() != s.size-recordHeader {
		return end, nil, errFields
	}
	p, err := sc.window(end+recordHeader, int(r.length))
	if err != nil {
		return end, nil, err
	}
	items, err = parseFooter(r, p, s.start, end)
	return end, items, err
}

// scanItems reads the headers of all records of a segment whose records end at
// end; 0 if only the footer can tell.
func scanItems(f durable.File, s *segment, end int64) ([]item, error) {
	sc, err := newScanner(f, s.salt, s.start)
	if err != nil {
		return nil, err
	}
	var items []item
	for end == 0 || sc.off < end {
		r, err := sc.head()
		switch {
		case isDiskError(err):
			return nil, err
		case err == nil && r.kind == kindFooter && end == 0:
			return items, nil
		case err != nil || r.kind >= kindFooter:
			return nil, covey.Errorf(covey.Corrupt, "damage at offset %d: %w, and the footer is damaged as well. "+
				"Entries are lost: do not delete the file, replace this node (with one replica: restore from a backup)",
				sc.off, errors.Join(err, errNoRecord("no record")))
		case r.kind == kindEntry:
			items = append(items, itemOf(&r, sc.off))
		}
		sc.off += r.size()
	}
	return items, nil
}
