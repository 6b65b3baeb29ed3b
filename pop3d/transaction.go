package pop3d

import (
	"context"
	"strconv"
	"strings"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/mutant"
)

// listBatch is how many messages LIST asks the index for at a time. Nothing is
// sent while the index is being read, so that a client that does not read holds
// up nobody else.
const listBatch = 1024

// transaction carries out the commands of the TRANSACTION state.
func (s *session) transaction(ctx context.Context, verb, arg string) error {
	switch verb {
	case "RETR":
		return s.retr(ctx, arg)
	case "TOP":
		return s.top(ctx, arg)
	case "LIST":
		return s.list(ctx, arg)
	case "UIDL":
		return s.uidl(arg)
	case "DELE":
		return s.dele(arg)
	}
	if arg != "" {
		return fault(verb + " takes no argument")
	}
	switch verb {
	case "STAT":
		return s.stat(ctx)
	case "RSET":
		s.drop.unmarkAll()
	}
	s.ok("%d messages", s.drop.left())
	return nil
}

// left returns how many messages are not marked.
func (d *maildrop) left() uint32 { return d.view.Len() - d.marked }

func (s *session) stat(ctx context.Context) error {
	octets, err := s.drop.octets(ctx)
	if err != nil {
		return err
	}
	s.ok("%d %d", s.drop.left(), octets)
	return nil
}

func (s *session) list(ctx context.Context, arg string) error {
	if arg == "" {
		return s.listAll(ctx)
	}
	n, err := s.number(arg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	m, err := s.drop.message(ctx, n)
	if err != nil {
		return err
	}
	s.ok("%d %d", n, m.Size)
	return nil
}

func (s *session) listAll(ctx context.Context) error {
	d := s.drop
	batch, err := d.sizes(ctx, 1, listBatch, nil)
	if err != nil {
		return err
	}
	s.ok("%d messages", d.left())
	for first := uint32(1); ; {
		for _, m := range batch {
			s.pair(m.n, strconv.AppendInt(nil, m.size, 10))
		}
		if first += listBatch; first > d.view.Len() {
			break
		}
		// A client that is gone is not worth reading the rest for.
		if err := s.w.Flush(); err != nil {
			return ending("connection lost")
		}
		if batch, err = d.sizes(ctx, first, first+listBatch-1, batch[:0]); err != nil {
			return s.abort("LIST", err)
		}
	}
	s.dot()
	return nil
}

// pair writes a line of a message number and something.
func (s *session) pair(n uint32, what []byte) {
	line := s.w.AvailableBuffer()
	line = strconv.AppendUint(line, uint64(n), 10)
	line = append(line, ' ')
	line = append(line, what...)
	_, _ = s.w.Write(append(line, "\r\n"...))
}

// abort ends a session in the middle of a reply, where no -ERR can be said any
// more: the end of the connection tells the client that it has not all.
func (s *session) abort(verb string, err error) error {
	s.log().Warn("reply broken off", "command", verb, "err", err)
	return ending("aborted")
}

func (s *session) uidl(arg string) error {
	d := s.drop
	if arg != "" {
		n, err := s.number(arg)
		if err != nil {
			return err
		}
		s.ok("%d %s", n, d.uniqueID(nil, n))
		return nil
	}
	s.ok("%d messages", d.left())
	id := make([]byte, 0, 24)
	for n := uint32(1); n <= d.view.Len(); n++ {
		if !d.isMarked(n) {
			id = d.uniqueID(id[:0], n)
			s.pair(n, id)
		}
	}
	s.dot()
	return nil
}

// uniqueID appends the unique-id of message n to b, at most 21 octets.
func (d *maildrop) uniqueID(b []byte, n uint32) []byte {
	b = strconv.AppendUint(b, uint64(d.box.UIDValidity), 10)
	b = append(b, '.')
	return strconv.AppendUint(b, uint64(d.view.UID(n)), 10)
}

func (s *session) dele(arg string) error {
	n, err := s.number(arg)
	if err != nil {
		return err
	}
	s.drop.mark(n)
	s.ok("message %d marked", n)
	return nil
}

// number reads the number of a message that exists and is not marked.
func (s *session) number(arg string) (uint32, error) {
	n, err := parseNumber(arg)
	if err != nil {
		return 0, err
	}
	if n == 0 || n > s.drop.view.Len() || s.drop.isMarked(n) {
		return 0, covey.Errorf(covey.NotFound, "message %d of %d", n, s.drop.view.Len())
	}
	return n, nil
}

// parseNumber reads digits, and nothing but digits. A number too large for any
// message is the largest there is.
func parseNumber(arg string) (uint32, error) {
	if arg == "" || strings.Trim(arg, "0123456789") != "" {
		return 0, fault("want a number")
	}
	n, err := strconv.ParseUint(arg, 10, 32)
	if err != nil {
		return 1<<32 - 1, nil
	}
	return uint32(n), nil
}

// quit removes what is marked, if anything, and ends the session (RFC 1939
// section 6).
func (s *session) quit(ctx context.Context, arg string) error {
	if arg != "" {
		return fault("QUIT takes no argument")
	}
	if s.drop != nil {
		if err := s.drop.remove(ctx); err != nil && !mutant.Is(mutant.EarlyQuit) {
			s.log().Warn("messages not removed", "marked", s.drop.marked, "err", err)
			return &refusal{code: "SYS/TEMP", text: "some deleted messages not removed", end: true}
		}
		s.removed = s.drop.marked
		s.srv.cfg.Metrics.Removed.Add(float64(s.removed))
		s.leave() // before the reply: who reads it may log in again
	}
	s.ok("bye")
	return ending("quit")
}
