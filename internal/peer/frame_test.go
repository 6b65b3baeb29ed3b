package peer

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
)

// The layout in the package comment, octet by octet.
func TestGoldenFrames(t *testing.T) {
	text := errors.New("no")
	eh, ep := errorFrame(5, covey.Errorf(covey.NotFound, "%w", text))
	eh.size = uint32(len(ep))
	var hb bytes.Buffer
	if err := (hello{class: stream, service: "imap", header: []byte("xy")}).write(&hb); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		got  []byte
		want string
	}{
		"post":  {append(header{size: 2, typ: framePost, code: 7}.append(nil), "ab"...), "02000000 01 07 0000 0000000000000000 00000000 6162"},
		"call":  {header{typ: frameCall, code: 200, id: 0x0102030405060708, millis: 1500}.append(nil), "00000000 02 c8 0000 0807060504030201 dc050000"},
		"error": {append(eh.append(nil), ep...), "02000000 04 02 0000 0500000000000000 00000000 6e6f"},
		"hello": {hb.Bytes(), "08000000 07 03 0000 0000000000000000 00000000 04696d6170 027879"},
	}
	for name, test := range tests {
		if got, want := hex.EncodeToString(test.got), strings.ReplaceAll(test.want, " ", ""); got != want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
	}
}

func TestFrameReader(t *testing.T) {
	frame := func(h header, payload string) []byte {
		h.size = uint32(len(payload))
		return append(h.append(nil), payload...)
	}
	two := append(frame(header{typ: frameCall, code: 1, id: 2, millis: 3}, "abc"), frame(header{typ: framePing, id: 9}, "")...)
	r := frameReader{r: bytes.NewReader(two), max: 3}
	h, p, err := r.next()
	if want := (header{size: 3, typ: frameCall, code: 1, id: 2, millis: 3}); h != want || string(p) != "abc" || err != nil {
		t.Errorf("first: %+v %q %v", h, p, err)
	}
	h, p, err = r.next()
	if want := (header{typ: framePing, id: 9}); h != want || p != nil || err != nil {
		t.Errorf("second: %+v %q %v", h, p, err)
	}
	if _, _, err = r.next(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	for cut := 1; cut < headerSize+3; cut++ {
		r := frameReader{r: bytes.NewReader(two[:cut]), max: 3}
		if _, _, err := r.next(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut after %d octets: %v", cut, err)
		}
	}
	r = frameReader{r: bytes.NewReader(two), max: 2}
	_, _, err = r.next()
	wantKind(t, err, covey.TooBig)
}

func FuzzFrameReader(f *testing.F) {
	f.Add(header{size: 3, typ: frameCall, code: 1, id: 2, millis: 3}.append(nil), uint32(100))
	f.Add(append(header{size: 2, typ: framePost}.append(nil), "abxxxxxxxxxxxxxxxxxxxxxxx"...), uint32(2))
	f.Add(header{size: 1 << 31, typ: framePost}.append(nil), uint32(1<<16))
	f.Fuzz(func(t *testing.T, data []byte, most uint32) {
		most %= 1 << 16
		r := frameReader{r: bytes.NewReader(data), max: most}
		var again []byte
		for {
			h, payload, err := r.next()
			if err != nil {
				break
			}
			if uint32(len(payload)) != h.size || h.size > most {
				t.Fatalf("%d octets for a frame of %d, at most %d", len(payload), h.size, most)
			}
			again = append(h.append(again), payload...)
		}
		if !bytes.HasPrefix(data, again) {
			t.Errorf("read something else than was there")
		}
	})
}

func TestHello(t *testing.T) {
	for _, want := range []hello{
		{class: control}, {class: bulk}, {class: join}, {class: stream, service: "pop3"},
		{class: stream, service: strings.Repeat("s", maxService), header: bytes.Repeat([]byte{1}, MaxHeader)},
	} {
		var b bytes.Buffer
		if err := want.write(&b); err != nil {
			t.Fatal(err)
		}
		b.WriteString("rest")
		got, err := readHello(&b)
		if err != nil || !cmp.Equal(got, want, cmp.AllowUnexported(hello{})) {
			t.Errorf("%v: got %v, %v", want.class, got.class, err)
		}
		if b.String() != "rest" {
			t.Errorf("%v: took more than the hello", want.class)
		}
	}
	for _, bad := range []hello{
		{class: 0}, {class: 5},
		{class: stream, service: strings.Repeat("s", maxService+1)},
		{class: stream, header: bytes.Repeat([]byte{1}, MaxHeader+1)},
	} {
		var b bytes.Buffer
		if err := bad.write(&b); err != nil {
			t.Fatal(err)
		}
		if _, err := readHello(&b); err == nil {
			t.Errorf("%v with %d octets was taken", bad.class, len(bad.header))
		}
	}
}

func FuzzHello(f *testing.F) {
	f.Add(uint8(3), []byte("\x04imap\x02xy"))
	f.Add(uint8(1), []byte{})
	f.Add(uint8(3), []byte("\xff\xff\xff\xff\xff\xff\xff\xff\x7f"))
	f.Fuzz(func(t *testing.T, code uint8, payload []byte) {
		h, err := parseHello(code, payload)
		if err != nil {
			return
		}
		if h.class < control || h.class > join || len(h.service) > maxService || len(h.header) > MaxHeader {
			t.Fatalf("took %v, service of %d, header of %d octets", h.class, len(h.service), len(h.header))
		}
		var b bytes.Buffer
		if err := h.write(&b); err != nil {
			t.Fatal(err)
		}
		again, err := readHello(&b)
		if err != nil || !cmp.Equal(again, h, cmp.AllowUnexported(hello{})) {
			t.Errorf("not the same again: %v", err)
		}
	})
}

func TestMillisUntil(t *testing.T) {
	for d, want := range map[time.Duration]time.Duration{
		-time.Hour: time.Millisecond, 0: time.Millisecond, 1000 * time.Hour: 1000 * time.Hour, 1e6 * time.Hour: (1<<32 - 1) * time.Millisecond,
	} {
		got := header{millis: millisUntil(time.Now().Add(d))}.timeout()
		if got > want || got < want-time.Minute {
			t.Errorf("%v: got %v, want %v", d, got, want)
		}
	}
}
