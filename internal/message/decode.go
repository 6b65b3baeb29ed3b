package message

import (
	"math"
	"unsafe"

	"github.com/covey-mail/covey/internal/wire"
)

// Decode reads what Encode wrote. It keeps nothing of b. What breaks the form or
// says what cannot be (a part outside the one that holds it) is covey.Corrupt.
func Decode(b []byte) (*Summary, error) {
	d := newDecoder(b)
	s := new(Summary)
	d.head(s)
	s.Root = d.part(span{0, s.Size}, 1)
	if d.Err() == nil && (s.Root.HeaderOffset != 0 || s.Root.end() != s.Size) {
		d.Fail("part that is not the whole message")
	}
	if err := d.End(); err != nil {
		return nil, err
	}
	return s, nil
}

// AppendEnvelope appends to b the ENVELOPE of what Encode wrote, see
// Envelope.AppendIMAP. What comes after it in the summary may be anything.
func AppendEnvelope(b, summary []byte) ([]byte, error) {
	// Strings are parts of the summary itself: none outlives the call.
	d := decoder{Reader: wire.NewReader(summary), text: unsafe.String(unsafe.SliceData(summary), len(summary))}
	var s Summary
	d.head(&s)
	if d.Err() != nil {
		return b, d.Err()
	}
	return s.Header.AppendIMAP(b), nil
}

// A span is the octets from start up to end.
type span struct{ start, end int64 }

type decoder struct {
	*wire.Reader
	text  string // a copy of all that is read, which strings are parts of
	parts int
}

func newDecoder(b []byte) decoder { return decoder{Reader: wire.NewReader(b), text: string(b)} }

// String reads a string.
func (d *decoder) String() string {
	n := len(d.Bytes())
	end := len(d.text) - d.Len()
	return d.text[end-n : end]
}

// head reads all but the parts.
func (d *decoder) head(s *Summary) {
	if v := d.Byte(); v != version {
		d.Fail("version of summary")
	}
	s.Size = d.size(math.MaxInt64)
	s.Lines = d.size(math.MaxInt64)
	s.LongestLine = d.size(math.MaxInt64)
	s.Flags = Flags(d.size(math.MaxUint16))
	s.Received = int(d.size(math.MaxInt32))
	s.FromFields = int(d.size(math.MaxInt32))
	s.DeliveredTo = d.strings()
	s.Preview = d.String()
	d.envelope(&s.Header)
}

// size reads a number from 0 to most.
func (d *decoder) size(most int64) int64 {
	n := d.Uint()
	if n > uint64(most) {
		d.Fail("number out of range")
		return 0
	}
	return int64(n)
}

func (d *decoder) strings() []string {
	n := d.Count(1)
	if n == 0 {
		return nil
	}
	list := make([]string, n)
	for i := range list {
		list[i] = d.String()
	}
	return list
}

func (d *decoder) envelope(e *Envelope) {
	texts, lists := e.strings(), e.lists()
	mask := d.size(1<<(len(texts)+len(lists)) - 1)
	for i, s := range texts {
		if mask&(1<<i) != 0 {
			if *s = d.String(); *s == "" {
				d.Fail("empty text")
			}
		}
	}
	for i, l := range lists {
		if mask&(1<<(len(texts)+i)) == 0 {
			continue
		}
		n := d.Count(3)
		if n == 0 {
			d.Fail("empty list")
			return
		}
		*l = make([]Address, n)
		for k := range *l {
			(*l)[k] = Address{Name: d.String(), Mailbox: d.String(), Host: d.String()}
		}
	}
}

// part reads a part that lies within w, at the given depth.
func (d *decoder) part(w span, depth int) *Part {
	if d.parts++; d.parts > MaxParts+MaxDepth || depth > MaxDepth {
		d.Fail("too many parts or too deep")
	}
	p := new(Part)
	mask := d.size(1<<partBits - 1)
	p.Media = d.code(mediaTypes[:], mask&mediaInWords != 0)
	p.Encoding = d.code(encodings[:], mask&encodingInWords != 0)
	p.HeaderOffset = w.start + d.size(w.end-w.start)
	p.HeaderSize = d.size(w.end - p.HeaderOffset)
	p.BodySize = d.size(w.end - p.BodyOffset())
	p.Lines = d.size(p.BodySize)
	if mask&hasParams != 0 {
		p.Params = d.params()
	}
	if mask&hasRare != 0 {
		p.Rare = d.rare()
	}
	if d.Err() != nil {
		return p
	}
	body := span{p.BodyOffset(), p.end()}
	switch {
	case isMessage(p.Media):
		p.Message = new(Embedded)
		d.envelope(&p.Message.Header)
		root := d.part(body, depth+1)
		if root.HeaderOffset != body.start || root.end() != body.end {
			d.Fail("message that is not the whole part")
		}
		p.Message.Root = root
	case isMultipart(p.Media):
		p.Parts = d.children(body, depth+1)
	}
	return p
}

// children reads the parts of a multipart with the given body.
func (d *decoder) children(body span, depth int) []*Part {
	const smallest = 7
	n := d.Count(smallest)
	if n == 0 {
		d.Fail("multipart without parts")
		return nil
	}
	parts := make([]*Part, 0, n)
	for range n {
		p := d.part(body, depth)
		if d.Err() != nil {
			return nil
		}
		parts = append(parts, p)
		body.start = p.end()
	}
	return parts
}

func (d *decoder) code(list []string, inWords bool) string {
	if inWords {
		s := d.String()
		if _, ok := codeOf(list, s); ok {
			d.Fail("word that has a number")
		}
		return s
	}
	return list[d.size(int64(len(list)-1))]
}

func (d *decoder) params() []Param {
	n := d.Count(2)
	if n == 0 {
		return nil
	}
	ps := make([]Param, n)
	for i := range ps {
		ps[i] = Param{Name: d.String(), Value: d.String()}
	}
	return ps
}

func (d *decoder) rare() *Rare {
	return &Rare{
		ID: d.String(), Description: d.String(), Location: d.String(), MD5: d.String(),
		Disposition: d.String(), DispositionParams: d.params(), Language: d.strings(),
	}
}
