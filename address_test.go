package covey

import (
	"errors"
	"strings"
	"testing"
)

func TestParseAddress(t *testing.T) {
	long := strings.Repeat("a", 64)
	tests := []struct {
		in   string
		want Address
		bad  bool
	}{
		{in: "alice@Example.ORG", want: Address{"alice", "example.org"}},
		{in: "Alice.B+tag@example.org", want: Address{"Alice.B+tag", "example.org"}},
		{in: `"a b\"c"@example.org`, want: Address{`a b"c`, "example.org"}},
		{in: "p@[127.0.0.1]", want: Address{"p", "[127.0.0.1]"}},
		{in: "p@[IPv6:::1]", want: Address{"p", "[ipv6:::1]"}},
		{in: "pelé@exämple.org", want: Address{"pelé", "exämple.org"}},
		{in: long + "@example.org", want: Address{long, "example.org"}},
		// S-14, S-46, S-47 of the reliability catalogue: forms that must be refused.
		{in: long + "a@example.org", bad: true},
		{in: "a@" + strings.Repeat("b.", 127) + "cc", bad: true},
		{in: `""@example.org`, bad: true},
		{in: "@example.org", bad: true},
		{in: "a@", bad: true},
		{in: "a@.", bad: true},
		{in: "a@b..c", bad: true},
		{in: "a@-b.c", bad: true},
		{in: ".a@b", bad: true},
		{in: "a..b@c", bad: true},
		{in: "a b@c", bad: true},
		{in: "a@[256.1.1.1]", bad: true},
		{in: "a@[127.0.0.1", bad: true},
		{in: "a@[IPv6:::1%<script>]", bad: true},
		{in: "a@[fe80::1%eth0]", bad: true},
		{in: "\"a\r\nDATA\"@d", bad: true},
		{in: "a@d\x00", bad: true},
		{in: "a\xff@d", bad: true},
		{in: "", bad: true},
		{in: `"` + strings.Repeat(`\`, 5000) + `"@d`, bad: true},
	}
	for _, tt := range tests {
		got, err := ParseAddress(tt.in)
		if tt.bad {
			if !errors.Is(err, Invalid) {
				t.Errorf("ParseAddress(%q) = %v, %v, want Invalid", tt.in, got, err)
			}
			continue
		}
		if err != nil || got != tt.want {
			t.Errorf("ParseAddress(%q) = %+v, %v, want %+v", tt.in, got, err, tt.want)
		}
	}
}

func TestAddressBase(t *testing.T) {
	for in, want := range map[string][2]string{
		"a+b@c": {"a", "b"}, "a@c": {"a", ""}, "+a@c": {"+a", ""}, "a+b+c@c": {"a", "b+c"}, "a+@c": {"a", ""},
	} {
		a, err := ParseAddress(in)
		if err != nil {
			t.Fatal(err)
		}
		base, detail := a.Base()
		if got := [2]string{base.Local, detail}; got != want {
			t.Errorf("%q.Base() = %q, want %q", in, got, want)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"a@b", `"a b"@c.d`, "a@[::1]", "a+b@c", `"\""@x`, "é@ü.de", "a@[IPv6:::1]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		if strings.ContainsAny(a.String(), "\r\n\x00") {
			t.Fatalf("%q holds control characters", a.String())
		}
		again, err := ParseAddress(a.String())
		if err != nil || again != a {
			t.Fatalf("ParseAddress(%q) = %+v; its String parses to %+v, %v", s, a, again, err)
		}
	})
}
