package bench

import (
	"crypto/rand"
	"encoding/hex"
	"io"
	mrand "math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// Lines of a body: 76 octets and CRLF. One in varyEvery has octets that no other
// message has; the rest come from a template, beginning at a line that changes
// from message to message. A filesystem or a server that stores equal blocks
// once gains nothing, and a message costs little more than a copy.
const (
	lineSize      = 78
	varyEvery     = 13
	templateLines = 840 // 64 KiB
	alphabet      = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
)

// tokenPrefix begins every token; the run and the message's number follow.
const tokenPrefix = "covey-bench-"

// newRunID returns what tells the messages of this run from those of all others,
// also from one with the same seed.
func newRunID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails: crypto/rand says so
	return hex.EncodeToString(b[:])
}

// newTemplate returns templateLines lines and again the first varyEvery, so that
// a run of lines that starts anywhere is contiguous.
func newTemplate(seed uint64) []byte {
	r := mrand.New(mrand.NewPCG(seed, 2))
	b := make([]byte, 0, (templateLines+varyEvery)*lineSize)
	for range templateLines {
		for range lineSize - 2 {
			b = append(b, alphabet[r.IntN(len(alphabet))])
		}
		b = append(b, "\r\n"...)
	}
	return append(b, b[:varyEvery*lineSize]...)
}

// A composer writes the messages of one worker. Not for concurrent use.
type composer struct {
	size     int
	template []byte // shared with all composers
	top      string // the header up to the recipient
	middle   string // the header from the recipient to the token
	run      string
	rng      *mrand.PCG
	head     []byte
	line     [lineSize]byte
}

func newComposer(cfg Config, template []byte, run string, worker int) *composer {
	c := &composer{size: cfg.Size, template: template, run: run, rng: mrand.NewPCG(cfg.Seed, uint64(worker)+3)}
	c.sender(cfg.From)
	c.middle = ">\r\nDate: " + time.Now().Format(time.RFC1123Z) +
		"\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\nSubject: " + tokenPrefix
	copy(c.line[:], template[:lineSize])
	return c
}

// sender sets whom the following messages are from.
func (c *composer) sender(from string) { c.top = "From: Bench <" + from + ">\r\nTo: <" }

// write writes message n to the recipient, without the final dot, and returns
// its size. No line begins with a dot.
func (c *composer) write(w io.Writer, n int64, to string) (int, error) {
	c.header(n, to)
	size := len(c.head)
	if _, err := w.Write(c.head); err != nil {
		return 0, err
	}
	need := max(c.size-size, 0)
	lines, rest := need/lineSize, need%lineSize
	start := int(c.rng.Uint64() % templateLines)
	for lines > 0 {
		k := min(lines, varyEvery)
		c.vary()
		if _, err := w.Write(c.line[:]); err != nil {
			return 0, err
		}
		if _, err := w.Write(c.template[start*lineSize : (start+k-1)*lineSize]); err != nil {
			return 0, err
		}
		start = (start + k) % templateLines
		lines -= k
	}
	if rest > 0 {
		rest = max(rest, 2)
		if _, err := w.Write(c.template[lineSize-rest : lineSize]); err != nil {
			return 0, err
		}
	}
	return size + need/lineSize*lineSize + rest, nil
}

func (c *composer) header(n int64, to string) {
	h := append(c.head[:0], c.top...)
	h = append(h, to...)
	h = append(h, c.middle...)
	h = appendToken(h, c.run, n)
	h = append(h, "\r\nMessage-ID: <"...)
	h = appendToken(h, c.run, n)
	c.head = append(h, "@bench.invalid>\r\n\r\n"...)
}

// vary puts 32 fresh octets at the start of the line.
func (c *composer) vary() {
	for i := 0; i < 32; i += 8 {
		v := c.rng.Uint64()
		for j := range 8 {
			c.line[i+j] = alphabet[v>>(8*j)&63]
		}
	}
}

func appendToken(b []byte, run string, n int64) []byte {
	b = append(b, run...)
	b = append(b, '-')
	b = strconv.AppendInt(b, n, 10)
	return append(b, '.') // so that message 1 is not found in message 12
}

// findToken returns the number of the message of this run whose token is in text.
func findToken(text, run string) (n int64, ok bool) {
	_, rest, ok := strings.Cut(text, tokenPrefix+run+"-")
	if !ok {
		return 0, false
	}
	number, _, ok := strings.Cut(rest, ".")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(number, 10, 64)
	return n, err == nil && n >= 0
}
