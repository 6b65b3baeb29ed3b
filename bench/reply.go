package bench

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// Bounds of replies.
const (
	maxReplyLines = 128
	maxBodyBytes  = 2 << 30 // of one POP3 body or IMAP literal
	maxResponse   = 1 << 20 // of an IMAP response without its literals
	maxKept       = 64 << 10
)

// readLine reads a line without its line end. It lies in r's buffer until the
// next read.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, errTooLong
	}
	if err != nil {
		return nil, err
	}
	return withoutEnd(line), nil
}

// withoutEnd returns a line without its line end. What a line costs the generator
// comes off what the server has left, and bytes.TrimRight makes a set of its cut.
func withoutEnd(line []byte) []byte {
	for len(line) > 0 && (line[len(line)-1] == '\n' || line[len(line)-1] == '\r') {
		line = line[:len(line)-1]
	}
	return line
}

// An smtpReply is a reply of SMTP or LMTP.
type smtpReply struct {
	code       int
	text       string // of the last line, with its code; empty for a positive reply
	pipelining bool   // a line says so (RFC 2920)
}

func (r smtpReply) positive() bool { return r.code >= 200 && r.code < 400 }

// readSMTPReply reads a reply with all its lines (RFC 5321, section 4.2).
func readSMTPReply(r *bufio.Reader) (smtpReply, error) {
	var reply smtpReply
	for range maxReplyLines {
		line, err := readLine(r)
		if err != nil {
			return reply, err
		}
		code, more, ok := smtpCode(line)
		if !ok || reply.code != 0 && reply.code != code {
			return reply, garbage(line)
		}
		reply.code = code
		if len(line) > 4 && bytes.EqualFold(line[4:], []byte("PIPELINING")) {
			reply.pipelining = true
		}
		if !more {
			if !reply.positive() {
				reply.text = string(line)
			}
			return reply, nil
		}
	}
	return reply, errTooLong
}

func smtpCode(line []byte) (code int, more, ok bool) {
	if len(line) < 3 || len(line) > 3 && line[3] != ' ' && line[3] != '-' {
		return 0, false, false
	}
	for _, c := range line[:3] {
		if c < '0' || c > '9' {
			return 0, false, false
		}
		code = code*10 + int(c-'0')
	}
	return code, len(line) > 3 && line[3] == '-', code >= 200 && code < 600
}

// readPOP3Reply reads a status line: whether it is positive, and its text, which
// lies in r's buffer until the next read.
func readPOP3Reply(r *bufio.Reader) (ok bool, text []byte, err error) {
	line, err := readLine(r)
	switch {
	case err != nil:
		return false, nil, err
	case bytes.HasPrefix(line, []byte("+OK")):
		return true, line, nil
	case bytes.HasPrefix(line, []byte("-ERR")):
		return false, line, nil
	}
	return false, nil, garbage(line)
}

// readPOP3Body reads a multi-line reply to its final dot and returns its size.
// keep, if not nil, takes its first maxKept octets.
func readPOP3Body(r *bufio.Reader, keep *[]byte) (size int64, err error) {
	start := true
	for size <= maxBodyBytes {
		line, err := r.ReadSlice('\n')
		whole := err == nil
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return size, err
		}
		if start && whole && line[0] == '.' && len(withoutEnd(line)) == 1 {
			return size, nil
		}
		size += int64(len(line))
		if keep != nil {
			*keep = append(*keep, line[:min(len(line), maxKept-len(*keep))]...)
		}
		start = whole
	}
	return size, errTooLong
}

// An imapReader reads responses. Not for concurrent use.
type imapReader struct {
	r       *bufio.Reader
	keep    bool   // also keep the beginning of literals in text
	text    []byte // of the last response; until the next
	literal int64  // octets of its literals
}

// next reads one response with its literals (RFC 9051, section 4.3).
func (ir *imapReader) next() error {
	ir.text, ir.literal = ir.text[:0], 0
	for {
		n, more, err := ir.line()
		if err != nil || !more {
			return err
		}
		if err := ir.skip(n); err != nil {
			return err
		}
	}
}

// line appends one line to text, without its line end, and returns the length of
// the literal that follows it, if one does.
func (ir *imapReader) line() (n int64, more bool, err error) {
	from := len(ir.text)
	for {
		part, err := ir.r.ReadSlice('\n')
		ir.text = append(ir.text, part...)
		if len(ir.text) > maxResponse {
			return 0, false, errTooLong
		}
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return 0, false, err
		}
	}
	// What was there before the line may end with a line end of its own literal.
	ir.text = ir.text[:from+len(withoutEnd(ir.text[from:]))]
	return literalLength(ir.text[from:])
}

// literalLength returns the number in the braces that end a line.
func literalLength(line []byte) (n int64, more bool, err error) {
	if len(line) == 0 || line[len(line)-1] != '}' {
		return 0, false, nil
	}
	open := bytes.LastIndexByte(line, '{')
	digits := line[open+1 : len(line)-1]
	if open < 0 || len(digits) == 0 {
		return 0, false, nil
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false, nil // text of a status reply
		}
		if n = n*10 + int64(c-'0'); n > maxBodyBytes {
			return 0, false, errTooLong
		}
	}
	return n, true, nil
}

func (ir *imapReader) skip(n int64) error {
	ir.literal += n
	if ir.literal > maxBodyBytes {
		return errTooLong
	}
	if ir.keep {
		k := min(n, maxKept)
		from := len(ir.text)
		if from > maxResponse {
			return errTooLong
		}
		ir.text = append(ir.text, make([]byte, k)...)
		if _, err := io.ReadFull(ir.r, ir.text[from:]); err != nil {
			return err
		}
		n -= k
	}
	_, err := ir.r.Discard(int(n))
	return err
}
