package imapd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/covey-mail/covey"
)

const (
	// flushSize is how much of the answers is gathered before it is written.
	flushSize = 16 << 10
	// maxFaults is how many commands in a row may be refused.
	maxFaults = 50
	// closeTime is what the last lines of a session have to get out.
	closeTime = 5 * time.Second
)

// sessionLimits bound a command after login.
func sessionLimits() limits {
	return limits{line: 48 << 10, literal: 4096, literals: 100, octets: 64 << 10, depth: 100}
}

// A guard is the connection that go-imap sees: see the package comment. go-imap
// reads only when it has done everything read before, so Read is also where a
// command ends: what was written is flushed there, and the guard may write by
// itself. In IDLE a goroutine of go-imap writes beside it.
//
// Deadlines that go-imap sets are ignored; the guard has its own.
type guard struct {
	net.Conn
	s       *Server
	login   login
	ctx     context.Context // ends when the session is to end
	cancel  context.CancelFunc
	session *session

	// The rest up to wmu is for the goroutine that reads.
	in      scanner
	forward []byte    // what go-imap reads next
	cmd     string    // name of the command that go-imap is doing
	search  *search   // of a SEARCH
	body    *incoming // of an APPEND
	idling  bool
	over    *imap.Error // BYE once the command under way is answered
	ended   bool
	faults  int
	count   int // commands
	since   time.Time

	wmu      sync.Mutex // guards what follows; held while writing
	out      []byte     // not yet written
	mute     bool       // BYE was said
	greeted  bool       // go-imap's greeting was swallowed
	direct   bool       // nothing is held back (IDLE)
	written  int64
	patience time.Duration // for each write

	dmu      sync.Mutex // guards what follows and the read deadline
	stopping bool

	closing sync.Once
}

// An incoming is a message on its way from the peer to APPEND.
type incoming struct {
	left int64
	err  *imap.Error // what is wrong with what follows it
}

func newGuard(s *Server, conn net.Conn, l login) *guard {
	g := &guard{Conn: conn, s: s, login: l, patience: s.cfg.WriteTime, since: time.Now()}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.in = scanner{
		br:      bufio.NewReaderSize(io.MultiReader(bytes.NewReader(l.Leftover), conn), 512),
		max:     sessionLimits(),
		more:    func() error { return g.say("+ go ahead\r\n") },
		message: isMessage,
	}
	return g
}

// isMessage reports whether a literal after text is the message of an APPEND: it
// is unless it is the name of the mailbox.
func isMessage(text []byte) bool {
	cmd, err := parseCommand(text)
	return err == nil && cmd.name == "APPEND" && len(bytes.TrimLeft(cmd.args, " ")) > 0
}

// Read gives go-imap the next line, or the next octets of a message.
func (g *guard) Read(p []byte) (int, error) {
	for len(g.forward) == 0 {
		var err error
		switch {
		case g.ended:
			return 0, io.EOF
		case g.body != nil && g.body.left > 1:
			return g.readBody(p)
		case g.body != nil:
			err = g.endBody()
		case g.idling:
			err = g.endIdle()
		default:
			err = g.nextCommand()
		}
		if err != nil {
			return 0, g.broken(err)
		}
	}
	n := copy(p, g.forward)
	g.forward = g.forward[n:]
	return n, nil
}

// nextCommand reads commands until there is one for go-imap.
func (g *guard) nextCommand() error {
	g.cmd, g.search = "", nil
	if g.over != nil {
		return g.bye(g.over)
	}
	f, err := g.frame()
	if err != nil {
		return err
	}
	if g.expelled() {
		return g.bye(&imap.Error{Text: "This account is not served any more"})
	}
	if f.message == nil {
		f.text = bytes.TrimRight(f.text, " ")
	}
	cmd, perr := parseCommand(f.text)
	refusal := f.err
	if refusal == nil {
		refusal = perr
	}
	if refusal == nil {
		refusal = g.dispatch(cmd, f.message)
	}
	if refusal == nil {
		g.faults = 0
		return nil
	}
	return g.refuse(cmd.tag, refusal, f)
}

// expelled reports whether the account was removed or disabled since its log-in.
// If that cannot be told, the session goes on.
func (g *guard) expelled() bool {
	return errors.Is(g.s.cfg.Logons.Allowed(g.ctx, g.login.Account), covey.Denied)
}

// frame waits for a command and reads it.
func (g *guard) frame() (frame, error) {
	if err := g.flush(); err != nil {
		return frame{}, err
	}
	g.await(g.s.cfg.IdleTime)
	if _, err := g.in.br.Peek(1); err != nil {
		return frame{}, err
	}
	g.await(g.s.cfg.ReadTime)
	return g.in.next()
}

// dispatch does a command, or prepares it for go-imap.
func (g *guard) dispatch(cmd command, message *literal) *imap.Error {
	g.count++
	if done, err := g.local(cmd); done || err != nil {
		return err
	}
	if done, err := g.onMessages(cmd); done {
		return err
	}
	r, err := rewrite(cmd)
	if err != nil {
		return err
	}
	if r.search != nil && r.search.saveOnly {
		return g.saveSearch(cmd, r.search)
	}
	if cmd.name == "APPEND" {
		if err := g.admitMessage(message); err != nil {
			return err
		}
		r.out = appendMessage(r.out, message)
		g.body = &incoming{left: message.size}
	}
	if cmd.name == "IDLE" {
		g.session.beginIdle()
		g.idling = true
		g.setDirect(true)
	}
	g.cmd, g.search = cmd.name, r.search
	g.forward = append(r.out, "\r\n"...)
	g.s.cfg.Metrics.Commands.WithLabelValues(cmd.name).Inc()
	return nil
}

// admitMessage checks the message that is to follow and asks for it.
func (g *guard) admitMessage(lit *literal) *imap.Error {
	if lit == nil {
		return bad("Syntax error: expected a literal")
	}
	if lit.size > g.s.cfg.AppendLimit {
		return no(imap.ResponseCodeTooBig, "Message too big")
	}
	if !lit.nonSync {
		// A failure shows at the next read.
		_ = g.say("+ go ahead\r\n")
	}
	return nil
}

// appendMessage announces a message to go-imap so that it does not ask for it.
func appendMessage(b []byte, lit *literal) []byte {
	if lit.binary {
		b = append(b, '~')
	}
	b = appendNumber(append(b, '{'), uint32(lit.size))
	return append(b, "+}"...)
}

// readBody reads from a message, but for its last octet.
func (g *guard) readBody(p []byte) (int, error) {
	g.await(g.s.cfg.ReadTime)
	n, err := g.in.br.Read(p[:min(int64(len(p)), g.body.left-1)])
	g.body.left -= int64(n)
	if err != nil {
		err = g.broken(midCommand(err, true))
	}
	return n, err
}

// endBody reads the last octet of a message and the rest of the line, before
// go-imap gets either, so that APPEND stores nothing if the line is wrong.
func (g *guard) endBody() error {
	g.await(g.s.cfg.ReadTime)
	last := make([]byte, g.body.left, 3)
	if _, err := io.ReadFull(g.in.br, last); err != nil {
		return midCommand(err, true)
	}
	f, err := g.in.rest()
	if err != nil {
		return err
	}
	if len(bytes.TrimRight(f.text, " ")) > 0 || f.err != nil || f.message != nil {
		g.body.err = bad("Syntax error after the message")
	}
	if f.fatal || f.message != nil && f.message.nonSync {
		g.over = bad("Literal refused")
	}
	g.body.left = 0
	g.forward = append(last, "\r\n"...)
	g.body = nil
	return nil
}

// endIdle waits for what ends IDLE. From then on go-imap's other goroutine does
// not write.
func (g *guard) endIdle() error {
	f, err := g.frame()
	g.session.endIdle()
	g.setDirect(false)
	g.idling = false
	if err != nil {
		return err
	}
	g.forward = []byte("DONE\r\n")
	if f.err != nil || f.message != nil || !bytes.EqualFold(bytes.TrimRight(f.text, " "), []byte("DONE")) {
		g.forward = []byte("-\r\n") // go-imap answers BAD
	}
	if f.fatal || f.message != nil && f.message.nonSync {
		g.over = bad("Literal refused")
	}
	return nil
}

// refuse answers a command that go-imap does not get to see.
func (g *guard) refuse(tag string, e *imap.Error, f frame) error {
	g.faults++
	g.s.cfg.Metrics.Refused.WithLabelValues(refusalReason(e)).Inc()
	if f.message != nil && f.message.nonSync && !f.fatal {
		if f.message.size > g.s.cfg.AppendLimit {
			f.fatal = true
		} else if err := g.skip(f.message.size); err != nil {
			return err
		}
	}
	if err := g.say(string(status(tag, e))); err != nil {
		return err
	}
	switch {
	case f.fatal:
		return g.bye(&imap.Error{Code: e.Code, Text: e.Text})
	case g.over != nil:
		return g.bye(g.over)
	case g.faults >= maxFaults:
		return g.bye(&imap.Error{Text: "Too many bad commands"})
	}
	return nil
}

// refusalReason keeps what a peer sends out of metric labels.
func refusalReason(e *imap.Error) string {
	if e.Type == imap.StatusResponseTypeBad {
		return "bad"
	}
	return "no"
}

// skip reads past a message that is refused.
func (g *guard) skip(size int64) error {
	g.body = &incoming{left: size}
	defer func() { g.body = nil }()
	buf := make([]byte, 4096)
	for g.body.left > 1 {
		if _, err := g.readBody(buf); err != nil {
			return err
		}
	}
	err := g.endBody()
	g.forward = nil
	return err
}

// await sets how long the peer may take for what is read next.
func (g *guard) await(d time.Duration) {
	g.dmu.Lock()
	defer g.dmu.Unlock()
	if !g.stopping {
		_ = g.Conn.SetReadDeadline(time.Now().Add(d)) // a closed connection shows at the read
	}
}

// stop makes the session end with BYE once the command under way is done.
func (g *guard) stop() {
	g.dmu.Lock()
	defer g.dmu.Unlock()
	g.stopping = true
	_ = g.Conn.SetReadDeadline(time.Unix(1, 0)) // as in await
}

func (g *guard) isStopping() bool {
	g.dmu.Lock()
	defer g.dmu.Unlock()
	return g.stopping
}

// broken takes leave of a peer when reading from it has failed.
func (g *guard) broken(err error) error {
	var timeout net.Error
	switch {
	case g.ended:
		return err
	case g.isStopping():
		return g.bye(shuttingDown())
	case errors.As(err, &timeout) && timeout.Timeout():
		return g.bye(&imap.Error{Text: "Autologout; idle for too long"})
	}
	g.ended = true
	g.silence()
	return err
}

func shuttingDown() *imap.Error {
	return &imap.Error{Code: imap.ResponseCodeUnavailable, Text: "Server shutting down"}
}

// Close ends the session's connection; go-imap calls it last of all.
func (g *guard) Close() error {
	var err error
	g.closing.Do(func() {
		g.wmu.Lock()
		g.patience = closeTime
		_ = g.flushLocked() // the peer may be gone
		g.wmu.Unlock()
		g.cancel()
		err = g.Conn.Close()
		g.s.ended(g)
	})
	return err
}

// abort makes the session end now. It does not wait, nor for a write under way.
func (g *guard) abort() {
	g.cancel()
	_ = g.Conn.Close() // go-imap notices, and calls Close
}

// SetDeadline does nothing; see guard.
func (g *guard) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing; see guard.
func (g *guard) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing; see guard.
func (g *guard) SetWriteDeadline(time.Time) error { return nil }
