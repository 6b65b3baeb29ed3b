package message

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
)

func TestScanAddresses(t *testing.T) {
	a := func(name, mailbox, host string) Address { return Address{name, mailbox, host} }
	end := Address{}
	tests := []struct {
		in       string
		want     []Address
		doubtful bool
	}{
		{"a@b.c", []Address{a("", "a", "b.c")}, false},
		{" Al  B. <a@b.c> ", []Address{a("Al B.", "a", "b.c")}, false},
		{`"Q, \"r\"" <a@b.c>, d@e.f`, []Address{a(`Q, "r"`, "a", "b.c"), a("", "d", "e.f")}, false},
		{"a@b.c (Al (B))", []Address{a("Al (B)", "a", "b.c")}, false},
		{"(x) a (y) @ (z) b . c", []Address{a("z", "a", "b.c")}, false},
		{`"a b"@c.d`, []Address{a("", "a b", "c.d")}, false},
		{`<"a b"@c.d>`, []Address{a("", "a b", "c.d")}, false},
		{"a@[192.0.2.1], <b@[IPv6:::1]>", []Address{a("", "a", "[192.0.2.1]"), a("", "b", "[IPv6:::1]")}, false},
		{"=?utf-8?q?=2C?= <a@b.c>", []Address{a("=?utf-8?q?=2C?=", "a", "b.c")}, false},
		{"g: a@b.c, d@e.f;, x@y.z", []Address{a("", "g", ""), a("", "a", "b.c"), a("", "d", "e.f"), end, a("", "x", "y.z")}, true},
		{"undisclosed-recipients:;", []Address{a("", "undisclosed-recipients", ""), end}, true},
		{"open: a@b.c", []Address{a("", "open", ""), a("", "a", "b.c"), end}, true},
		{":;", []Address{a("", "unnamed", ""), end}, true},
		{"a: b: c@d.e;;", []Address{a("", "a", ""), a("", "b c", "d.e"), end}, true},
		{"<@r1,@r2:a@b.c>", []Address{a("", "a", "b.c")}, true},
		{"root", []Address{a("", "root", missingHost)}, true},
		{"Name <>", []Address{a("Name", missingMailbox, missingHost)}, true},
		{"@b.c", []Address{a("", missingMailbox, "b.c")}, true},
		{"a@b.c <d@e.f>", []Address{a("a@b.c", "d", "e.f")}, true},
		{`"a@b.c" <d@e.f>`, []Address{a("a@b.c", "d", "e.f")}, false},
		{"<a@b.c> <d@e.f>", []Address{a("", "d", "e.f")}, true},
		{"<a@b.c> x", []Address{a("x", "a", "b.c")}, true},
		{"a@b.c d@e.f", []Address{a("", "a", "b.c")}, true},
		{"<a@b@c>", []Address{a("", "a", "c")}, true},
		{"<a@b.c", []Address{a("", "a", "b.c")}, true},
		{`"open <a@b.c>`, []Address{a("", "open <a@b.c>", missingHost)}, true},
		{"(open a@b.c", nil, false},
		{", ,;,", nil, true},
		{"", nil, false},
	}
	for _, tt := range tests {
		var got []Address
		doubtful := scanAddresses([]byte(tt.in), func(r rawAddress) bool {
			got = append(got, Address{string(r.name), string(r.mailbox), string(r.host)})
			return true
		})
		if diff := cmp.Diff(tt.want, got); diff != "" || doubtful != tt.doubtful {
			t.Errorf("%q doubtful %v, want %v (-want +got):\n%s", tt.in, doubtful, tt.doubtful, diff)
		}
	}
}

// TestFrom_S34_M08: who a message is from, read as strictly as anyone might.
func TestFrom_S34_M08(t *testing.T) {
	tests := []struct {
		header string
		want   string
		clear  bool
	}{
		{"From: alice@example.org", "[alice@example.org]", true},
		{"from: Alice <Alice@EXAMPLE.org>", "[Alice@example.org]", true},
		{"From:\r\n Alice\r\n <alice@example.org>", "[alice@example.org]", true},
		{"From: a@x.org, b@y.org", "[a@x.org b@y.org]", true},
		{"From: a@x.org\r\nFrom: b@y.org", "[a@x.org b@y.org]", false},
		{"From: a@x.org\r\nFROM : b@y.org", "[a@x.org b@y.org]", false},
		{"From : a@x.org", "[a@x.org]", true},
		{"Fr\r\n om: a@x.org", "[]", false},
		{"Subject: x", "[]", false},
		{"From:", "[]", false},
		{"From: <>", "[MISSING_MAILBOX@missing_domain]", false},
		{"From: a@x.org\x00", "[a@x.org]", false},
		{"From: \ra@x.org", "[a@x.org]", false},
		{"From: a@x.org <b@y.org>", "[b@y.org]", false},
		{"From: g: a@x.org;", "[a@x.org]", false},
		{"From: a@x..org", "[]", false},
		{"From: " + strings.Repeat("a@x.org,", MaxAddresses+1), fmt.Sprint(repeatAddress(MaxAddresses)), false},
		{"From: " + strings.Repeat(" ", maxField) + "a@x.org", "[]", false},
		{"From: a@x.org," + strings.Repeat(" ", maxField) + "b@y.org", "[a@x.org]", false},
		{strings.Repeat("X: y\r\n", MaxHeader/6+1) + "From: a@x.org", "[]", false},
	}
	for _, tt := range tests {
		s := mustParse(t, tt.header+"\r\n\r\nFrom: body@example.org\r\n")
		got, clear := s.From()
		if fmt.Sprint(got) != tt.want || clear != tt.clear {
			t.Errorf("%.60q: %.100v clear %v, want %.100s clear %v", tt.header, got, clear, tt.want, tt.clear)
		}
	}
}

func repeatAddress(n int) []covey.Address {
	out := make([]covey.Address, n)
	for i := range out {
		out[i] = covey.Address{Local: "a", Domain: "x.org"}
	}
	return out
}

// TestAddressWork_M05: reading an address list goes over each octet a bounded
// number of times, whatever is nested in it.
func TestAddressWork_M05(t *testing.T) {
	for _, unit := range []string{"(", "((x)", "a@b.c,", "g:", "<", "<@", "\"", "\"\\", "a ", "@", "[", "a@[", ";", "a@b ", "<a@b ", "(\\", ">", "."} {
		small, large := addressAllocs(unit, 1000), addressAllocs(unit, 8000)
		if large > 10*small+200 {
			t.Errorf("%q: %v allocations for 1000, %v for 8000", unit, small, large)
		}
		value := []byte(strings.Repeat(unit, 60_000))
		s := addressScanner{}
		s.scan(value, func(rawAddress) bool { return true })
		if held := cap(s.words) + cap(s.local) + cap(s.domain); held > 4*len(value)+1024 {
			t.Errorf("%q: holds %d octets for %d", unit, held, len(value))
		}
	}
}

func addressAllocs(unit string, n int) float64 {
	value := []byte(strings.Repeat(unit, n))
	return testing.AllocsPerRun(1, func() {
		scanAddresses(value, func(rawAddress) bool { return true })
	})
}
