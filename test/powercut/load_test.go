package powercut

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net"
	"net/textproto"
	"strings"
	"sync"
	"time"
)

// ledger is what the clients were told.
type ledger struct {
	mu     sync.Mutex // guards the following fields
	next   int
	sent   map[string]*letter
	uids   map[string]string // user/uidl → token, as once seen
	acked  int
	errors int
}

// letter is one message, known by its token.
type letter struct {
	user    string
	sum     [sha256.Size]byte // of the bytes sent
	acked   bool
	ackedAt time.Time
	deleted bool // a deletion was acknowledged
	dying   bool // a deletion was asked for, outcome unknown
}

func newLedger() *ledger {
	return &ledger{sent: make(map[string]*letter), uids: make(map[string]string)}
}

// compose makes a message and enters it; some are larger than one log command.
func (l *ledger) compose(user string, r *rand.Rand) (token, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++
	token = fmt.Sprintf("token-%d", l.next)
	size := 200 + r.IntN(12<<10)
	if r.IntN(40) == 0 {
		size = 300<<10 + r.IntN(600<<10)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Subject: %s\r\nFrom: load@example.net\r\n\r\n", token)
	for b.Len() < size {
		fmt.Fprintf(&b, "%x %x %x %x\r\n", r.Uint64(), r.Uint64(), r.Uint64(), r.Uint64())
	}
	text = b.String()
	l.sent[token] = &letter{user: user, sum: sha256.Sum256([]byte(text))}
	return token, text
}

func (l *ledger) ack(token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent[token].acked, l.sent[token].ackedAt = true, time.Now()
	l.acked++
}

// count returns how many messages were acknowledged.
func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked
}

// sender delivers messages over one connection after another until stop closes.
// Errors end a connection, not the sender: the node may be dying.
func (l *ledger) sender(seed uint64, addr, greet string, users []string, stop <-chan struct{}) {
	r := rand.New(rand.NewPCG(seed, 7))
	for {
		select {
		case <-stop:
			return
		default:
		}
		if err := l.session(r, addr, greet, users, stop); err != nil {
			l.mu.Lock()
			l.errors++
			l.mu.Unlock()
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
}

// session speaks SMTP or LMTP, which differ here in the greeting only: each
// message has one recipient.
func (l *ledger) session(r *rand.Rand, addr, greet string, users []string, stop <-chan struct{}) error {
	conn, err := net.DialTimeout("tcp", addr, 2*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	c := textproto.NewConn(conn)
	if _, _, err := c.ReadResponse(220); err != nil {
		return err
	}
	if err := ask(c, 250, "%s load.example.net", greet); err != nil {
		return err
	}
	for range 20 {
		select {
		case <-stop:
			return nil
		default:
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		user := users[r.IntN(len(users))]
		token, text := l.compose(user, r)
		if err := ask(c, 250, "MAIL FROM:<load@example.net>"); err != nil {
			return err
		}
		if err := ask(c, 250, "RCPT TO:<%s@example.org>", user); err != nil {
			return err
		}
		if err := ask(c, 354, "DATA"); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(conn, "%s.\r\n", text); err != nil {
			return err
		}
		if _, _, err := c.ReadResponse(250); err != nil {
			return err
		}
		l.ack(token)
	}
	return ask(c, 221, "QUIT")
}

func ask(c *textproto.Conn, code int, format string, args ...any) error {
	if err := c.PrintfLine(format, args...); err != nil {
		return err
	}
	_, _, err := c.ReadResponse(code)
	return err
}
