package message

import (
	"bytes"
	"strings"

	"github.com/covey-mail/covey/internal/wire"
)

const opaque = "application/octet-stream"

// A node is a part that has begun and not ended.
type node struct {
	part     *Part
	env      *Envelope // that the header fills in; nil for a part that is no message
	inHeader bool
	digest   bool   // parts without Content-Type are messages (RFC 2046 section 5.1.5)
	asked    string // Content-Type's boundary
	boundary string // delimiter to look for, without the hyphens; empty for none
	seen     uint32 // fields that the header had, by fieldID
	lines    int64  // line feeds before the body
}

func (p *parser) top() *node { return &p.open[len(p.open)-1] }

// push opens a part whose header starts at its HeaderOffset.
func (p *parser) push(n node) {
	n.inHeader = true
	p.open = append(p.open, n)
}

// delimiter ends and opens parts if text, a line of size octets with its end,
// is a delimiter of an open multipart.
func (p *parser) delimiter(text []byte, size int) bool {
	rest := bytes.TrimRight(text[2:], " \t")
	for i := len(p.open) - 1; i >= 0; i-- {
		b := p.open[i].boundary
		if b == "" || !bytes.HasPrefix(rest, []byte(b)) {
			continue
		}
		switch string(rest[len(b):]) {
		case "":
			p.closeAbove(i)
			p.openChild(i, p.off+int64(size))
		case "--":
			p.closeAbove(i)
			p.setBoundary(i, "")
		default:
			continue
		}
		return true
	}
	return false
}

func (p *parser) setBoundary(i int, b string) {
	n := &p.open[i]
	if n.boundary != "" {
		p.live--
	}
	if n.boundary = b; b != "" {
		p.live++
	}
}

// openChild begins a part of the multipart open[i] at offset off. A part that
// would go over a limit takes in the rest of the multipart.
func (p *parser) openChild(i int, off int64) {
	parent := &p.open[i]
	child := &Part{HeaderOffset: off}
	first := len(parent.part.Parts) == 0 // its place was counted with the multipart
	parent.part.Parts = append(parent.part.Parts, child)
	if first || p.takePlace() {
		p.push(node{part: child})
		return
	}
	child.Media = opaque
	p.setBoundary(i, "")
	p.push(node{part: child})
	p.top().inHeader = false
	p.top().lines = p.sum.Lines + 1
}

// takePlace counts one part more, if there may be one.
func (p *parser) takePlace() bool {
	if p.parts >= MaxParts || p.room <= 0 {
		p.sum.Flags |= Truncated
		return false
	}
	p.parts++
	return true
}

// endHeader decides what the innermost part is, now that its header has ended
// and its body starts at offset off behind the given number of line feeds.
func (p *parser) endHeader(off, lines int64) {
	p.endField()
	i := len(p.open) - 1
	n := &p.open[i]
	n.inHeader = false
	n.lines = lines
	part := n.part
	part.HeaderSize = off - part.HeaderOffset
	if part.Media == "" {
		part.Media = "text/plain"
		if i > 0 && p.open[i-1].digest && n.env == nil {
			part.Media = "message/rfc822"
		}
	}
	multi, msg := isMultipart(part.Media), isMessage(part.Media)
	if !multi && !msg {
		return
	}
	if len(p.open) >= MaxDepth || !p.takePlace() {
		p.sum.Flags |= Truncated
		part.Media = opaque
		return
	}
	if multi {
		n.digest = part.Media == "multipart/digest"
		p.setBoundary(i, n.asked)
		return
	}
	part.Message = &Embedded{Root: &Part{HeaderOffset: off}}
	p.push(node{part: part.Message.Root, env: &part.Message.Header})
}

func isMultipart(media string) bool { return strings.HasPrefix(media, "multipart/") }

func isMessage(media string) bool {
	return media == "message/rfc822" || media == "message/global"
}

// closeAbove ends the parts within open[i], all for -1. The line end before the
// line at hand belongs to the delimiter (RFC 2046 section 5.1.1), unless it is
// that of a delimiter or a header.
func (p *parser) closeAbove(i int) {
	end := p.off - p.eol
	for len(p.open)-1 > i {
		n := p.top()
		if n.inHeader {
			// A message part's root opens here and is ended by the next round.
			p.endHeader(max(n.part.HeaderOffset, end), p.sum.Lines)
			continue
		}
		end = max(end, n.part.BodyOffset())
		p.closePart(n, end)
		p.open = p.open[:len(p.open)-1]
	}
}

// closePart ends a part at offset end.
func (p *parser) closePart(n *node, end int64) {
	p.setBoundary(len(p.open)-1, "")
	part := n.part
	part.BodySize = end - part.BodyOffset()
	lines := p.sum.Lines
	if end < p.off {
		lines--
	}
	part.Lines = max(0, lines-n.lines)
	if isMultipart(part.Media) && len(part.Parts) == 0 {
		only := &Part{Media: "text/plain", HeaderOffset: part.BodyOffset(), BodySize: part.BodySize, Lines: part.Lines}
		part.Parts = []*Part{only}
		p.room -= numbersSize(only)
	}
	p.room -= numbersSize(part)
}

// numbersSize returns at least the octets that a part's encoding takes without
// its strings and parameters.
func numbersSize(part *Part) int {
	var b [60]byte
	n := wire.AppendUint(b[:0], uint64(part.HeaderOffset))
	n = wire.AppendUint(n, uint64(part.HeaderSize))
	n = wire.AppendUint(n, uint64(part.BodySize))
	n = wire.AppendUint(n, uint64(part.Lines))
	return len(n) + 8 // mask, codes, counts, mask of an envelope
}
