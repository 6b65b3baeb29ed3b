package bench

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"
)

func reading(s string) *bufio.Reader { return bufio.NewReaderSize(strings.NewReader(s), readBuffer) }

func TestSMTPReplies(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want smtpReply
		err  error
	}{
		{"250 ok\r\n", smtpReply{code: 250}, nil},
		{"250\r\n", smtpReply{code: 250}, nil},
		{"354 go\n", smtpReply{code: 354}, nil},
		{"250-a\r\n250-pipelining\r\n250 c\r\n", smtpReply{code: 250, pipelining: true}, nil},
		{"550 5.1.1 no\r\n", smtpReply{code: 550, text: "550 5.1.1 no"}, nil},
		{"250-a\r\n550 b\r\n", smtpReply{code: 250}, errGarbage},
		{"hello\r\n", smtpReply{}, errGarbage},
		{"99\r\n", smtpReply{}, errGarbage},
		{"700 x\r\n", smtpReply{}, errGarbage},
		{"250x\r\n", smtpReply{}, errGarbage},
		{"\r\n", smtpReply{}, errGarbage},
		{"", smtpReply{}, io.EOF},
		{"250 half", smtpReply{}, io.EOF},
		{"250-" + strings.Repeat("x", readBuffer) + "\r\n", smtpReply{}, errTooLong},
		{strings.Repeat("250-more\r\n", maxReplyLines+1), smtpReply{code: 250}, errTooLong},
	} {
		got, err := readSMTPReply(reading(tt.in))
		if got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%.40q: got %+v, %v; want %+v, %v", tt.in, got, err, tt.want, tt.err)
		}
	}
}

func TestPOP3Bodies(t *testing.T) {
	long := strings.Repeat("x", 3*readBuffer)
	for _, tt := range []struct {
		in   string
		size int64
		err  error
	}{
		{".\r\n", 0, nil},
		{"a\r\nb\r\n.\r\n", 6, nil},
		{"..\r\n.\r\n", 4, nil},
		{long + "\r\n.\r\n", int64(len(long)) + 2, nil},
		// A piece of a long line that is but a dot does not end the body.
		{strings.Repeat("x", readBuffer) + ".\r\nb\r\n.\r\n", readBuffer + 6, nil},
		{"a\r\n", 3, io.EOF},
	} {
		size, err := readPOP3Body(reading(tt.in), nil)
		if size != tt.size || !errors.Is(err, tt.err) {
			t.Errorf("%.40q: got %d, %v; want %d, %v", tt.in, size, err, tt.size, tt.err)
		}
	}
	var kept []byte
	if _, err := readPOP3Body(reading(strings.Repeat("0123456789\r\n", 10_000)+".\r\n"), &kept); err != nil || len(kept) != maxKept {
		t.Errorf("kept %d octets, %v; want %d", len(kept), err, maxKept)
	}
}

func TestPOP3Replies(t *testing.T) {
	for in, want := range map[string]string{
		"+OK 3 400\r\n": "true +OK 3 400", "-ERR no\r\n": "false -ERR no", "* OK\r\n": "not a reply", "": "EOF",
	} {
		ok, text, err := readPOP3Reply(reading(in))
		got := map[bool]string{true: "true ", false: "false "}[ok] + string(text)
		if err != nil {
			got, _, _ = strings.Cut(err.Error(), ":")
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestIMAPResponses(t *testing.T) {
	for _, tt := range []struct {
		in, text string
		keep     bool
		literal  int64
		err      error
	}{
		{in: "* 3 EXISTS\r\n", text: "* 3 EXISTS"},
		{in: "* 1 FETCH (BODY[] {5}\r\nhello)\r\nnext", text: "* 1 FETCH (BODY[] {5})", literal: 5},
		{in: "* 1 FETCH (BODY[] {5}\r\nhello)\r\n", keep: true, text: "* 1 FETCH (BODY[] {5}hello)", literal: 5},
		{in: "* 1 FETCH (A {2}\r\nx\n B {0}\r\n)\r\n", keep: true, text: "* 1 FETCH (A {2}x\n B {0})", literal: 2},
		{in: "* {3}\r\na\r\n\r\n", keep: true, text: "* {3}a\r\n", literal: 3},
		{in: "* OK {text}\r\n", text: "* OK {text}"},
		{in: "* OK }\r\n", text: "* OK }"},
		{in: "* " + strings.Repeat("x", 2*readBuffer) + "\r\n", text: "* " + strings.Repeat("x", 2*readBuffer)},
		{in: "* {99999999999999999999}\r\n", err: errTooLong},
		{in: strings.Repeat("x", maxResponse+1) + "\r\n", err: errTooLong},
		{in: "* {5}\r\nab", err: io.EOF},
		{in: "* {5}\r\nab", keep: true, err: io.ErrUnexpectedEOF},
		{in: "", err: io.EOF},
	} {
		r := imapReader{r: reading(tt.in), keep: tt.keep}
		err := r.next()
		if !errors.Is(err, tt.err) {
			t.Errorf("%.40q: error %v, want %v", tt.in, err, tt.err)
		}
		if err == nil && (string(r.text) != tt.text || r.literal != tt.literal) {
			t.Errorf("%.40q: got %.60q with %d of literals, want %.60q with %d", tt.in, r.text, r.literal, tt.text, tt.literal)
		}
	}
}

func FuzzReplies(f *testing.F) {
	for _, s := range []string{
		"250-a\r\n250 b\r\n", "354 x\r\n", "+OK\r\na\r\n.\r\n", "-ERR x\r\n", "* 1 FETCH (BODY[] {5}\r\nhello)\r\n", "b1 OK done\r\n",
		"* {0}\r\n{1}\r\n", "\r\n", "{\r\n", "{}\r\n", "}\r\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		if reply, err := readSMTPReply(reading(in)); err == nil && (reply.code < 200 || reply.code > 599) {
			t.Errorf("code %d", reply.code)
		}
		_, _, _ = readPOP3Reply(reading(in))
		var kept []byte
		if size, err := readPOP3Body(reading(in), &kept); size > int64(len(in)) || len(kept) > maxKept || err == nil && !strings.Contains(in, ".") {
			t.Errorf("body of %d octets in %d", size, len(in))
		}
		for _, keep := range []bool{false, true} {
			r := imapReader{r: reading(in), keep: keep}
			for r.next() == nil {
				if r.literal > int64(len(in)) {
					t.Errorf("%d octets of literals in %d", r.literal, len(in))
				}
			}
		}
	})
}
