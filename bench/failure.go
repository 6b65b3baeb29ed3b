package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A failure is why an operation was not done.
type failure struct {
	step   string // what was being done, such as "connect" or "RCPT"
	reply  string // what the server said, empty if it said nothing
	err    error  // why there was no reply; nil if there was
	closed bool   // the connection is of no more use
}

// Error implements error.
func (f *failure) Error() string { return f.class() }

// Unwrap returns the cause.
func (f *failure) Unwrap() error { return f.err }

// refused is a failure by the server's word.
func refused(step, reply string) *failure { return &failure{step: step, reply: reply} }

// broken is a failure of the connection.
func broken(step string, err error) *failure { return &failure{step: step, err: err, closed: true} }

// lost reports whether the connection is of no more use after err: it broke, or
// the server took leave with 421 (RFC 5321, section 3.8).
func lost(err error) bool {
	f, ok := errors.AsType[*failure](err)
	return ok && (f.closed || strings.HasPrefix(f.reply, "421"))
}

// class is what failures are counted by: the step and the beginning of the reply.
// Words are few, since servers put queue numbers and names at the end.
func (f *failure) class() string {
	if f.err == nil {
		words := strings.Fields(f.reply)
		return f.step + ": " + printable(strings.Join(words[:min(len(words), 6)], " "))
	}
	return f.step + ": " + cause(f.err)
}

func cause(err error) string {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "interrupted"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the server closed the connection"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "the server reset the connection"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "no free local port"
	case errors.Is(err, syscall.EMFILE):
		return "too many open files"
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err // without addresses, which differ
	}
	return printable(err.Error())
}

// printable makes foreign text fit for a terminal and a table.
func printable(s string) string {
	const most = 80
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s[:min(len(s), most)])
	return s
}

// maxClasses bounds how many kinds of failure are told apart.
const maxClasses = 20

const otherClass = "other"

// classes counts failures.
type classes map[string]class

type class struct {
	count int64
	max   time.Duration // that an operation took to fail so
}

func (c classes) add(err error, took time.Duration) {
	key := otherClass
	if f, ok := errors.AsType[*failure](err); ok {
		key = f.class()
	} else if err != nil {
		key = printable(err.Error())
	}
	if _, ok := c[key]; !ok && len(c) >= maxClasses {
		key = otherClass
	}
	c[key] = class{c[key].count + 1, max(c[key].max, took)}
}

// list returns the classes, the most frequent first.
func (c classes) list() []FailureClass {
	out := make([]FailureClass, 0, len(c))
	for key, of := range c {
		out = append(out, FailureClass{What: key, Count: of.count, MaxMS: of.max.Seconds() * 1000, Hint: hint(key)})
	}
	slices.SortFunc(out, func(a, b FailureClass) int {
		if a.Count != b.Count {
			return int(min(max(b.Count-a.Count, -1), 1))
		}
		return strings.Compare(a.What, b.What)
	})
	return out
}

// hint says what to do about a class of failures, empty if it is not known.
func hint(class string) string {
	for _, h := range []struct{ part, text string }{
		{"connection refused", "does the server run, and listen on this address and port?"},
		{"too many open files", "raise the limit: ulimit -n 65536"},
		{"no free local port", "use --per-session 0, or fewer connections"},
		{"greeting", "does this port speak this protocol, and TLS as --tls says?"},
		{"timeout", "the server did not answer in time: see its log, or raise --timeout"},
		{"421", "the server limits connections: in Covey raise [limits] per_address and connections"},
		{"too many", "the server limits connections: in Covey raise [limits] per_address and connections"},
		{"login", "--user-pattern, --users and --password must name accounts that can log in"},
		{"RCPT: 55", "--user-pattern and --users must name accounts that exist: covey user import makes many"},
		{"MAIL: 55", "the server refuses the sender: change --from"},
		{"TLS", "does this port speak TLS as --tls says?"},
	} {
		if strings.Contains(strings.ToLower(class), strings.ToLower(h.part)) {
			return h.text
		}
	}
	return ""
}

// errTooLong and errGarbage are replies that no server of the protocol sends.
var (
	errTooLong = errors.New("line too long")
	errGarbage = errors.New("not a reply")
)

func garbage(line []byte) error { return fmt.Errorf("%w: %q", errGarbage, line[:min(len(line), 30)]) }
