package membership

import (
	"bytes"
	"io"
	"net"
	"testing"
	"testing/iotest"
)

// reading is a connection that can only be read.
type reading struct {
	net.Conn
	io.Reader
}

func (r reading) Read(b []byte) (int, error) { return r.Reader.Read(b) }
func (reading) Close() error                 { return nil }

// TestStreamHead: the head is checked before anything is given away, in whatever
// pieces it comes, and then all is given.
func TestStreamHead(t *testing.T) {
	f := newFrame("label")
	good := append(bytes.Clone(f), streamMark, 0, 0, 0, 50, cipher)
	good = append(good, bytes.Repeat([]byte("x"), 49)...)
	closes := 0
	s := newStream(reading{Reader: iotest.OneByteReader(bytes.NewReader(good))}, f.inbound(), nil)
	s.closed = func() { closes++ }
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, good) {
		t.Errorf("read %q, %v", got, err)
	}
	s.Close()
	s.Close()
	if closes != 1 {
		t.Errorf("closed is called %d times", closes)
	}

	bad := bytes.Clone(good)
	bad[len(f)+5] = 0
	var reasons []string
	s = newStream(reading{Reader: bytes.NewReader(bad)}, f.inbound(), func(r string) { reasons = append(reasons, r) })
	for range 2 {
		if n, err := s.Read(make([]byte, 10)); n != 0 || err == nil {
			t.Errorf("read %d octets of a bad stream, %v", n, err)
		}
	}
	if len(reasons) != 1 || reasons[0] != refusedForm {
		t.Errorf("refused %v", reasons)
	}
}

// FuzzFrame reads any octets as the beginning of a packet and of streams.
func FuzzFrame(f *testing.F) {
	own := newFrame("00112233445566778899aabbccddeeff")
	f.Add(append(bytes.Clone(own), append([]byte{cipher}, make([]byte, 40)...)...))
	f.Add(append(bytes.Clone(own), streamMark, 0, 0, 1, 0, cipher))
	f.Add([]byte{streamMark, 0, 0, 1, 0, cipher})
	f.Fuzz(func(t *testing.T, b []byte) {
		if own.checkPacket(b) == "" && (!bytes.HasPrefix(b, own) || b[len(own)] != cipher || len(b) <= len(own)+cipherExtra) {
			t.Errorf("packet %x passes", b)
		}
		for _, h := range []*head{own.inbound(), own.reply()} {
			refused := ""
			s := newStream(reading{Reader: bytes.NewReader(b)}, h, func(r string) { refused = r })
			got, err := io.ReadAll(s)
			switch {
			case err == nil && len(b) > 0 && !bytes.Equal(got, b):
				t.Errorf("stream %x is read as %x", b, got)
			case err == nil && len(b) > 0 && (!bytes.HasPrefix(b, h.frame) || b[len(h.frame)] != streamMark || b[len(h.frame)+5] != cipher):
				t.Errorf("stream %x passes", b)
			case err != nil && (len(got) > 0 || refused == ""):
				t.Errorf("stream %x: %q, refused %q, %v", b, got, refused, err)
			}
		}
	})
}

// TestStateFits: the most that a node can know fits into a stream.
func TestStateFits(t *testing.T) {
	ls := make([]Leader, maxShards)
	for i := range ls {
		ls[i] = Leader{maxShards - 1, 1<<64 - 1, 1<<64 - 1, true}
	}
	// memberlist takes some 100 octets beside the description.
	if got := len(encodeLeaders(ls)) + maxMembers*(maxMeta+200); got > maxState {
		t.Errorf("%d octets, at most %d", got, maxState)
	}
}
