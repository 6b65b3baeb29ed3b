package message

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// hostile returns messages made to hurt, by the row of the reliability list that
// they stand for.
func hostile() []sample {
	var out []sample
	add := func(name string, parts ...string) { out = append(out, sample{name, []byte(strings.Join(parts, ""))}) }
	many := strings.Repeat
	const multi = "Content-Type: multipart/mixed; boundary=%q\r\n\r\n"

	var nested strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&nested, multi+"--b%d\r\n", fmt.Sprint("b", i), i)
	}
	add("M-01/10000 nested multiparts", nested.String())
	add("M-01/10000 nested messages", many("Content-Type: message/rfc822\r\n\r\n", 10_000))
	add("M-01/same delimiter", many("Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n", 10_000))
	add("M-02/1000000 parts", fmt.Sprintf(multi, "b"), many("--b\r\n\r\n\r\n", 1_000_000), "--b--\r\n")
	add("M-02/delimiter lines alone", fmt.Sprintf(multi, "b"), many("--b\r\n", 200_000))
	add("M-02/parts with long names", fmt.Sprintf(multi, "b"), many("--b\r\nContent-Type: a/b; name=\""+many("n", 300)+"\"\r\nContent-ID: <x>\r\n\r\n\r\n", 20_000))
	add("M-02/messages in a digest", "Content-Type: multipart/digest; boundary=b\r\n\r\n", many("--b\r\n\r\nFrom: a@b.c\r\nTo: a@b.c, d@e.f\r\nSubject: x\r\n\r\n", 20_000))
	add("M-02/empty multiparts", fmt.Sprintf(multi, "b"), many("--b\r\nContent-Type: multipart/x; boundary=c\r\n\r\n", 20_000))
	for _, n := range []int{70, 71, 998, 2048, 2049, 70_000} {
		add(fmt.Sprintf("M-02/delimiter of %d", n), fmt.Sprintf(multi, many("d", n)), "--", many("d", n), "\r\n\r\ntext\r\n--", many("d", n), "--\r\n")
	}
	add("M-02/empty delimiter", fmt.Sprintf(multi, ""), "--\r\n\r\ntext\r\n----\r\n")
	add("M-02/blank delimiter", fmt.Sprintf(multi, "  "), "--\r\n\r\ntext\r\n")
	add("M-03/delimiter of all levels at once", fmt.Sprintf(multi, "a"), "--a\r\n", fmt.Sprintf(multi, "b"), "--b\r\n--a\r\n--b\r\n--a--\r\n--b--\r\n--a\r\n")
	add("M-03/delimiter in header", fmt.Sprintf(multi, "a"), "--a\r\nContent-Type: message/rfc822\r\n--a\r\nContent-Type: message/rfc822\r\n\r\nSubject: x\r\n--a--")
	add("M-04/header of 10 MB in one line", "Subject: ", many("s", 10<<20), "\r\n\r\nbody\r\n")
	add("M-04/1000000 fields", many("X-A: b\r\n", 1_000_000), "Subject: late\r\n\r\nbody\r\n")
	add("M-04/1000000 fields that count", many("To: a@b.c\r\n", 1_000_000), "\r\nbody\r\n")
	add("M-04/1000000 continuations", "From: ", many("\r\n a@b.c,", 1_000_000), "\r\n\r\nbody\r\n")
	add("M-05/200000 addresses", "To: ", many("a@b.c,\r\n ", 200_000), "x@y.z\r\n\r\n")
	add("M-05/nested groups", "From: a@b.c\r\nTo: ", many("g:", 20_000), many(";", 20_000), "\r\n\r\n")
	add("M-05/comments", "To: ", many("(", 100_000), "a@b.c\r\nCc: ", many("((x)", 10_000), " d@e.f\r\n\r\n")
	add("M-05/routes", "To: <", many("@a,", 20_000), ":b@c.d>\r\nCc: ", many("<", 30_000), "\r\nBcc: ", many("\"\\", 30_000), "\r\n\r\n")
	add("M-06/100000 segments", "Content-Type: text/plain", segments(100_000), "\r\n\r\n")
	add("M-06/60 segments", "Content-Type: text/plain", segments(60), "\r\n\r\n")
	add("M-06/100000 encoded words", "Subject: ", many("=?utf-8?q?=C3=A9?= ", 100_000), "\r\nFrom: ", many("=?iso-2022-jp?b?GyRC?= ", 1000), "\u00e9 <a@b.c>\r\n\r\n")
	add("M-07/malformed base64", "Content-Transfer-Encoding: base64\r\n\r\n====A=B=*****\x00\xff", many("=", 1000))
	add("M-07/malformed quoted-printable", "Content-Transfer-Encoding: quoted-printable\r\n\r\n=\r=\n=4=ZZ= =\t\r\n=", many(" ", 5000), "\r\n=E")
	add("M-07/utf-7", "Content-Type: text/plain; charset=utf-7\r\n\r\n+ADw-script+AD4-\r\n")
	add("M-07/ISO-2022 switching", "Content-Type: text/plain; charset=iso-2022-jp\r\n\r\n", many("\x1b$B\x1b(B", 20_000))
	add("M-08/NUL in name", "Fr\x00om: a@b.c\r\nFrom: a@b.c\x00\r\n\r\n")
	add("M-10/date", "Date: 1 Jan 9999999 00:00:00 -9999\r\nMessage-ID: <", many("m", 10_000), ">\r\nMessage-ID: <2>\r\n\r\n")
	add("M-11/names", "Content-Type: text/html; name=\"../../x\r\n \x00\r\x7f\"\r\nContent-Disposition: attachment; filename=\"\u202egpj.exe\r\n\t\x01x\"\r\n\r\n")
	add("M-12/zip", "Content-Type: application/zip\r\nContent-Transfer-Encoding: base64\r\n\r\nUEsDBBQAAAAIAAAA\r\n")
	add("M-13/TNEF", "Content-Type: application/ms-tnef\r\n\r\n\x78\x9f\x3e\x22\xff\xff\xff\xff\xff")
	add("M-14/RRULE", "Content-Type: text/calendar\r\n\r\nRRULE:FREQ=SECONDLY;COUNT=999999999\r\n")
	add("M-20/octets", string(allOctets()), "\r\n", string(allOctets()))
	add("M-20/empty names", "Content-Type: /\r\nContent-Transfer-Encoding: ;\r\nContent-Disposition: ;;;=\r\nContent-Language: ,,,\r\nFrom: <\x01@\x02>\r\nTo: \x01:;\r\nContent-ID:\r\n\r\n")
	return out
}

func segments(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, ";\r\n name*%d*=%%C3%%A9", i)
	}
	return b.String()
}

func allOctets() []byte {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

// TestHostile_M01_to_M20 feeds each hostile message and checks all that holds
// for every message: a tree within limits, an encoding that is bounded and comes
// back, answers that are IMAP syntax.
func TestHostile_M01_to_M20(t *testing.T) {
	for _, m := range hostile() {
		t.Run(m.name, func(t *testing.T) {
			s := mustParse(t, string(m.data))
			if s.Size != int64(len(m.data)) {
				t.Errorf("size %d, want %d", s.Size, len(m.data))
			}
			if n := len(s.Encode()); n > MaxEncoded {
				t.Errorf("encodes to %d octets", n)
			}
			checkTree(t, s)
			checkCode(t, s)
			checkIMAP(t, s)
			if len(m.data) < 100_000 {
				checkSections(t, s, m.data)
			}
		})
	}
}

// TestHostileMemory_M01_M06: what a message can make Parse allocate does not
// grow with its size.
func TestHostileMemory_M01_M06(t *testing.T) {
	const most = 6 << 20 // 10,100 parts of some 200 octets, addresses, buffers, growth
	for _, m := range hostile() {
		var before, after runtime.MemStats
		r := bytes.NewReader(m.data)
		runtime.ReadMemStats(&before)
		if _, err := Parse(r); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		got := after.TotalAlloc - before.TotalAlloc
		if got > most {
			t.Errorf("%s: %d octets allocated for %d", m.name, got, len(m.data))
		}
	}
}
