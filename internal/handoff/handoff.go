// Package handoff carries a session that a login front on one node has let in to
// the node where the user's mail is, and its octets both ways from then on.
//
// The front opens a stream to the home node with a Login as its header. The home
// node answers with Accept or Refuse, one short frame, and after Accept the
// stream is the client's connection, in clear: how the client itself is protected
// is the front's affair.
package handoff

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/wire"
)

// A Login is what the home node gets to know of a client.
type Login struct {
	Account   covey.AccountID
	Shard     covey.ShardID
	Address   covey.Address // of the account
	Quota     int64         // bytes, 0 none
	Remote    string        // the client's address, for the log
	Session   string        // the session's id in the log
	TLS       bool          // between the client and the front
	Mechanism string        // by which it logged in
	Leftover  []byte        // what it has sent ahead
}

// MaxLogin bounds an encoded Login, in bytes.
const MaxLogin = 32 << 10

const loginVersion = 1

// Encode returns the form that travels.
func (l Login) Encode() []byte {
	b := wire.AppendUint([]byte{loginVersion}, uint64(l.Account))
	b = wire.AppendUint(b, uint64(l.Shard))
	b = wire.AppendBytes(wire.AppendBytes(b, l.Address.Local), l.Address.Domain)
	b = wire.AppendInt(b, l.Quota)
	b = wire.AppendBytes(wire.AppendBytes(b, l.Remote), l.Session)
	b = wire.AppendBytes(wire.AppendBool(b, l.TLS), l.Mechanism)
	return wire.AppendBytes(b, l.Leftover)
}

// Decode is the inverse of Encode. What makes no sense is covey.Corrupt. The
// Login aliases b.
func Decode(b []byte) (Login, error) {
	if len(b) > MaxLogin {
		return Login{}, covey.Errorf(covey.Corrupt, "login of %d octets", len(b))
	}
	r := wire.NewReader(b)
	if r.Byte() != loginVersion {
		r.Fail("unknown version of a login")
	}
	l := Login{Account: covey.AccountID(r.Uint())}
	shard := r.Uint()
	if l.Shard = covey.ShardID(shard); uint64(l.Shard) != shard {
		r.Fail("shard")
	}
	l.Address = covey.Address{Local: r.String(), Domain: r.String()}
	l.Quota = r.Int()
	l.Remote, l.Session = r.String(), r.String()
	l.TLS, l.Mechanism = r.Bool(), r.String()
	l.Leftover = r.Bytes()
	return l, r.End()
}

// Homes knows where sessions run.
type Homes interface {
	// Home returns nil if the sessions of l's account run on this node, else a
	// stream to the node where they do, which has accepted l. Its error carries
	// the Kind that the home node refused with; covey.Unavailable if there is none
	// that can be reached.
	Home(ctx context.Context, service string, l Login) (net.Conn, error)
}

// maxReason bounds the text of a refusal.
const maxReason = 512

// answerTime bounds how long either side waits for the answer to be read or
// written.
const answerTime = 10 * time.Second

// Accept tells the front that its client's session begins.
func Accept(c net.Conn) error { return answer(c, []byte{0, 0, 0}) }

// Refuse tells the front why there will be no session, and closes the stream.
func Refuse(c net.Conn, why error) error {
	text := why.Error()
	text = text[:min(len(text), maxReason)]
	b := []byte{byte(covey.KindOf(why)) + 1}
	b = append(binary.LittleEndian.AppendUint16(b, uint16(len(text))), text...)
	return errors.Join(answer(c, b), c.Close())
}

func answer(c net.Conn, b []byte) error {
	if err := c.SetWriteDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	if _, err := c.Write(b); err != nil {
		return fmt.Errorf("answer a login: %w", err)
	}
	return c.SetWriteDeadline(time.Time{})
}

// Await reads the home node's answer. If it is no, c is closed and the error
// carries its Kind; covey.Unavailable if there was none.
func Await(ctx context.Context, c net.Conn) error {
	err := await(ctx, c)
	if err != nil {
		_ = c.Close() // nothing more to say
	}
	return err
}

func await(ctx context.Context, c net.Conn) error {
	by := time.Now().Add(answerTime)
	if d, ok := ctx.Deadline(); ok && d.Before(by) {
		by = d
	}
	if err := c.SetReadDeadline(by); err != nil {
		return covey.Errorf(covey.Unavailable, "the home node: %w", err)
	}
	var head [3]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return covey.Errorf(covey.Unavailable, "the home node did not answer: %w", err)
	}
	n := binary.LittleEndian.Uint16(head[1:])
	if head[0] == 0 && n == 0 {
		return c.SetReadDeadline(time.Time{})
	}
	if head[0] == 0 || n > maxReason {
		return covey.Errorf(covey.Unavailable, "the home node's answer makes no sense")
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(c, text); err != nil {
		return covey.Errorf(covey.Unavailable, "the home node did not answer: %w", err)
	}
	return covey.Errorf(covey.Kind(head[0]-1), "%s", text)
}

// A Relay passes octets between a client and its home.
type Relay struct {
	client, home net.Conn
	farewell     string // the last line, if the home could not say it
	stopping     sync.Once
}

// NewRelay returns a Relay that has not begun. farewell is a line for the client
// whose session ends without a word of the home node, because it is gone or this
// node stops.
func NewRelay(client, home net.Conn, farewell string) *Relay {
	return &Relay{client: client, home: home, farewell: farewell}
}

// closeWriter is a connection whose one direction can be ended; *tls.Conn and
// *net.TCPConn are.
type closeWriter interface{ CloseWrite() error }

// Stop ends the session when the command under way is answered: the home node
// hears that no more will come. It does not wait.
func (r *Relay) Stop() {
	r.stopping.Do(func() {
		_ = r.client.SetReadDeadline(time.Unix(1, 0)) // wakes Run's reader, which closes
	})
}

// Abort ends it now. It does not wait.
func (r *Relay) Abort() {
	_ = r.client.Close()
	_ = r.home.Close()
}

// Run passes octets until either side ends, closes both connections and returns
// how many went to the client.
func (r *Relay) Run() int64 {
	up := make(chan error, 1)
	go func() { // ends when either connection does, or with Stop
		_, err := io.Copy(r.home, r.client)
		if cw, ok := r.home.(closeWriter); ok {
			_ = cw.CloseWrite() // the home answers what it has read
		} else {
			_ = r.home.Close()
		}
		up <- err
	}()
	out := tail{Conn: r.client}
	_, err := io.Copy(&out, r.home)
	if err != nil || r.stopped() {
		out.say(r.farewell)
	}
	_ = r.client.Close() // both are done with, whatever they say
	_ = r.home.Close()
	<-up
	return out.n
}

// stopped reports whether Stop was called.
func (r *Relay) stopped() bool {
	was := true
	r.stopping.Do(func() { was = false })
	return was
}

// A tail is a connection that remembers how the last line written to it begins,
// and whether it is complete.
type tail struct {
	net.Conn
	n    int64
	line []byte // at most lineStart octets of it
	over bool   // it is complete
}

const lineStart = 32

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	n, err := t.Conn.Write(p)
	t.n += int64(n)
	t.note(p[:n])
	return n, err
}

func (t *tail) note(p []byte) {
	if len(p) == 0 {
		return
	}
	last := bytes.TrimSuffix(p, []byte("\n"))
	if i := bytes.LastIndexByte(last, '\n'); i >= 0 {
		last, t.line = last[i+1:], t.line[:0]
	} else if t.over {
		t.line = t.line[:0]
	}
	t.line = append(t.line, last[:min(len(last), lineStart-len(t.line))]...)
	t.over = p[len(p)-1] == '\n'
}

// say writes a line unless it would land in the middle of another, or one that
// begins with the same two words was the last.
func (t *tail) say(line string) {
	if t.n > 0 && !t.over {
		return
	}
	first, rest, _ := strings.Cut(line, " ")
	second, _, _ := strings.Cut(rest, " ")
	if bytes.HasPrefix(t.line, []byte(first+" "+second+" ")) {
		return // the home has said it, and broke off with something unread
	}
	_ = t.SetWriteDeadline(time.Now().Add(answerTime))
	_, _ = io.WriteString(t.Conn, line) // the client may be gone
}
