package powercut

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"net"
	"strings"
	"time"
)

// maildrop is a POP3 session.
type maildrop struct {
	conn net.Conn
	in   *bufio.Reader
}

// openMaildrop logs in; each user's password is its name.
func openMaildrop(addr, user string) (*maildrop, error) {
	conn, err := net.DialTimeout("tcp", addr, 2*time.Second)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(60 * time.Second))
	m := &maildrop{conn: conn, in: bufio.NewReader(conn)}
	if _, err := m.reply(); err != nil {
		conn.Close()
		return nil, err
	}
	for _, cmd := range []string{"USER " + user + "@example.org", "PASS " + user} {
		if _, err := m.ask("%s", cmd); err != nil {
			conn.Close()
			return nil, err
		}
	}
	return m, nil
}

func (m *maildrop) ask(format string, args ...any) (string, error) {
	if _, err := fmt.Fprintf(m.conn, format+"\r\n", args...); err != nil {
		return "", err
	}
	return m.reply()
}

func (m *maildrop) reply() (string, error) {
	line, err := m.in.ReadString('\n')
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(line, "+OK") {
		return "", fmt.Errorf("server says %q", line)
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// lines reads a multi-line reply with the dots taken off.
func (m *maildrop) lines() (string, error) {
	var b strings.Builder
	for {
		line, err := m.in.ReadString('\n')
		if err != nil {
			return "", err
		}
		if line == ".\r\n" {
			return b.String(), nil
		}
		b.WriteString(strings.TrimPrefix(line, "."))
	}
}

// entry is one message of a maildrop.
type entry struct {
	number int
	uidl   string
}

func (m *maildrop) list() ([]entry, error) {
	if _, err := m.ask("UIDL"); err != nil {
		return nil, err
	}
	text, err := m.lines()
	if err != nil {
		return nil, err
	}
	var all []entry
	for line := range strings.Lines(text) {
		var e entry
		if _, err := fmt.Sscan(line, &e.number, &e.uidl); err != nil {
			return nil, fmt.Errorf("UIDL line %q: %w", line, err)
		}
		all = append(all, e)
	}
	return all, nil
}

// fetch returns a message's token and the hash of what the sender sent: the lines
// that delivery put in front are cut off.
func (m *maildrop) fetch(number int) (token string, sum [sha256.Size]byte, err error) {
	if _, err := m.ask("RETR %d", number); err != nil {
		return "", sum, err
	}
	text, err := m.lines()
	if err != nil {
		return "", sum, err
	}
	i := strings.Index(text, "Subject: ")
	if i < 0 {
		return "", sum, fmt.Errorf("message %d has no subject: %q", number, text[:min(len(text), 200)])
	}
	token, _, _ = strings.Cut(text[i+len("Subject: "):], "\r\n")
	return token, sha256.Sum256([]byte(text[i:])), nil
}

// eater deletes a few messages of each user now and then until stop closes, so
// that there is something to compact.
func (l *ledger) eater(addr string, users []string, stop <-chan struct{}) {
	for k := 0; ; k++ {
		select {
		case <-stop:
			return
		case <-time.After(50 * time.Millisecond):
		}
		// The node may be dying: what was not acknowledged stays as it is.
		_ = l.eat(addr, users[k%len(users)])
	}
}

func (l *ledger) eat(addr, user string) error {
	m, err := openMaildrop(addr, user)
	if err != nil {
		return err
	}
	defer m.conn.Close()
	list, err := m.list()
	if err != nil {
		return err
	}
	var tokens []string
	for _, e := range list[:len(list)*2/3] {
		token, _, err := m.fetch(e.number)
		if err != nil {
			return err
		}
		if _, err := m.ask("DELE %d", e.number); err != nil {
			return err
		}
		tokens = append(tokens, token)
	}
	l.mark(tokens, func(x *letter) { x.dying = true })
	if _, err := m.ask("QUIT"); err != nil {
		return err
	}
	l.mark(tokens, func(x *letter) { x.deleted = true })
	return nil
}

func (l *ledger) mark(tokens []string, fn func(*letter)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range tokens {
		if x := l.sent[t]; x != nil {
			fn(x)
		}
	}
}

// verify reads every maildrop and compares it with what the clients were told.
func (l *ledger) verify(addr string, users []string) (problems []string, err error) {
	seen := make(map[string]int)
	for _, user := range users {
		m, err := openMaildrop(addr, user)
		if err != nil {
			return nil, err
		}
		defer m.conn.Close()
		list, err := m.list()
		if err != nil {
			return nil, err
		}
		for _, e := range list {
			token, sum, err := m.fetch(e.number)
			if err != nil {
				return nil, err
			}
			seen[token]++
			problems = append(problems, l.judge(user, e.uidl, token, sum)...)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for token, x := range l.sent {
		switch n := seen[token]; {
		case n > 1:
			problems = append(problems, fmt.Sprintf("%s is there %d times", token, n))
		case n == 0 && x.acked && !x.dying:
			problems = append(problems, fmt.Sprintf("%s of %s was acknowledged at %s and is lost", token, x.user, x.ackedAt.Format(stamp)))
		case n == 1 && x.deleted:
			problems = append(problems, fmt.Sprintf("%s of %s was deleted and is back", token, x.user))
		}
	}
	return problems, nil
}

// judge compares one stored message with the ledger.
func (l *ledger) judge(user, uidl, token string, sum [sha256.Size]byte) (problems []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := l.sent[token]
	if x == nil || x.user != user {
		return []string{fmt.Sprintf("%s has a message %q that no one sent there", user, token)}
	}
	if x.sum != sum {
		problems = append(problems, fmt.Sprintf("%s of %s has other bytes than were sent", token, user))
	}
	key := user + "/" + uidl
	if was, ok := l.uids[key]; ok && was != token {
		problems = append(problems, fmt.Sprintf("UID %s of %s was %s and is %s", uidl, user, was, token))
	}
	l.uids[key] = token
	return problems
}
