package membership

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"sync"

	"github.com/covey-mail/covey"
)

// What lies open in front of memberlist's ciphertext. A packet is
//
//	0   1  244: a label follows
//	1   1  length of the label
//	2      the label: the cluster's id in hexadecimal
//	       1 octet version of the encryption, 1; 12 octets nonce; ciphertext; 16 octets tag
//
// and a stream, after the same label (which only who dials sends),
//
//	0   1  10: it is encrypted
//	1   4  length of the rest, big endian
//	5      as in a packet, from the version on
//
// Version 0 of the encryption pads, and memberlist panics over bad padding; it
// does too over a stream of no plaintext.
const (
	labelMark   = 244
	streamMark  = 10
	cipher      = 1
	cipherExtra = 1 + 12 + 16 // octets that encryption adds
	streamHead  = 1 + 4 + 1   // mark, length, version of the encryption
	maxState    = 4 << 20     // octets in one stream: 65,536 leaders and 1,024 members take 2 MiB
)

// A frame is what all of one cluster's gossip begins with.
type frame []byte

func newFrame(label string) frame {
	return append(frame{labelMark, byte(len(label))}, label...)
}

// checkPacket returns why a packet cannot be ours, "" if it may.
func (f frame) checkPacket(b []byte) (reason string) {
	rest, ok := bytes.CutPrefix(b, f)
	switch {
	case !ok:
		return refusedLabel
	case len(rest) <= cipherExtra || rest[0] != cipher:
		return refusedForm
	}
	return ""
}

// inbound and reply return what checks the beginning of a stream that somebody
// dialled, or of the answer on one that we did.
func (f frame) inbound() *head { return &head{frame: f} }
func (f frame) reply() *head   { return &head{} }

// A head is the beginning of a stream, to be checked before anybody reads it.
type head struct{ frame frame }

func (h *head) size() int { return len(h.frame) + streamHead }

// check returns why a stream that begins with b, of h.size octets, cannot be
// ours, "" if it may.
func (h *head) check(b []byte) (reason string) {
	rest, ok := bytes.CutPrefix(b, h.frame)
	if !ok {
		return refusedLabel
	}
	n := binary.BigEndian.Uint32(rest[1:])
	if rest[0] != streamMark || n <= cipherExtra || n > maxState || rest[5] != cipher {
		return refusedForm
	}
	return ""
}

// A stream is a connection of which nothing is read before its head is known to
// be good. Only one goroutine may read.
type stream struct {
	net.Conn
	head   *head // nil: checked, or not to be
	refuse func(reason string)
	rest   []byte // of the head, not read yet
	err    error  // the head was not good

	once   sync.Once
	closed func() // called once, by Close
}

func newStream(c net.Conn, h *head, refuse func(string)) *stream {
	return &stream{Conn: c, head: h, refuse: refuse, closed: func() {}}
}

// Read implements net.Conn.
func (s *stream) Read(b []byte) (int, error) {
	if s.head != nil {
		s.err = s.readHead(s.head)
		s.head = nil
	}
	if s.err != nil {
		return 0, s.err
	}
	if len(s.rest) > 0 {
		n := copy(b, s.rest)
		s.rest = s.rest[n:]
		return n, nil
	}
	return s.Conn.Read(b)
}

func (s *stream) readHead(h *head) error {
	b := make([]byte, h.size())
	n, err := io.ReadFull(s.Conn, b)
	if err != nil {
		if n > 0 {
			s.refuse(refusedForm)
		}
		return err
	}
	if reason := h.check(b); reason != "" {
		s.refuse(reason)
		return errRefused
	}
	s.rest = b
	return nil
}

// errRefused is what memberlist is told of a stream that was refused, and
// counted and logged, before it came there.
var errRefused = covey.Errorf(covey.Invalid, "gossip stream refused")

// Close implements net.Conn.
func (s *stream) Close() error {
	err := s.Conn.Close()
	s.once.Do(s.closed)
	return err
}
