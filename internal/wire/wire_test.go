package wire

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"github.com/covey-mail/covey"
)

func TestRoundTrip(t *testing.T) {
	var b []byte
	b = AppendUint(b, math.MaxUint64)
	b = AppendInt(b, math.MinInt64)
	b = AppendBytes(b, "hello")
	b = AppendBytes(b, []byte{})
	b = AppendBool(b, true)
	b = append(b, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
	r := NewReader(b)
	if got := r.Uint(); got != math.MaxUint64 {
		t.Errorf("Uint = %d", got)
	}
	if got := r.Int(); got != math.MinInt64 {
		t.Errorf("Int = %d", got)
	}
	if got := r.String(); got != "hello" {
		t.Errorf("String = %q", got)
	}
	if got := r.Bytes(); got != nil {
		t.Errorf("empty Bytes = %v, want nil", got)
	}
	if !r.Bool() {
		t.Error("Bool = false")
	}
	if got := r.Uint32(); got != 0x04030201 {
		t.Errorf("Uint32 = %x", got)
	}
	if got := r.Uint64(); got != 0x0c0b0a0908070605 {
		t.Errorf("Uint64 = %x", got)
	}
	if err := r.End(); err != nil {
		t.Error(err)
	}
}

func TestFaultsAreSticky(t *testing.T) {
	tests := map[string]struct {
		in   []byte
		read func(*Reader)
	}{
		"empty":                {nil, func(r *Reader) { r.Uint() }},
		"varint without end":   {bytes.Repeat([]byte{0x80}, 11), func(r *Reader) { r.Uint() }},
		"length beyond end":    {[]byte{5, 'a'}, func(r *Reader) { r.Bytes() }},
		"huge length":          {[]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, func(r *Reader) { r.Bytes() }},
		"count beyond end":     {[]byte{3, 1, 1}, func(r *Reader) { r.Count(1) }},
		"boolean of two":       {[]byte{2}, func(r *Reader) { r.Bool() }},
		"octets left over":     {[]byte{1, 1}, func(r *Reader) { r.Uint(); _ = r.End() }},
		"raw of negative size": {[]byte{1}, func(r *Reader) { r.Raw(-1) }},
	}
	for name, tt := range tests {
		r := NewReader(tt.in)
		tt.read(r)
		if !errors.Is(r.Err(), covey.Corrupt) {
			t.Errorf("%s: Err = %v, want Corrupt", name, r.Err())
		}
		if r.Len() != 0 || r.Uint() != 0 || r.Bytes() != nil {
			t.Errorf("%s: reads go on after the fault", name)
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte{1, 2, 'a', 'b', 0, 3}, []byte{0, 1, 2, 3})
	f.Add([]byte{0xff, 0xff, 0xff}, []byte{4, 5, 6, 0})
	f.Fuzz(func(t *testing.T, in, ops []byte) {
		r := NewReader(in)
		for _, op := range ops {
			before := r.Len()
			switch op % 7 {
			case 0:
				r.Uint()
			case 1:
				r.Int()
			case 2:
				if p := r.Bytes(); len(p) > before {
					t.Fatal("more bytes than there were")
				}
			case 3:
				if n := r.Count(3); n*3 > before {
					t.Fatal("count beyond the end")
				}
			case 4:
				r.Bool()
			case 5:
				r.Uint32()
			case 6:
				r.Raw(int(op))
			}
			if r.Len() > before {
				t.Fatal("the reader grew")
			}
		}
	})
}
