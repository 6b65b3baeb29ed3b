package bench

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// A postOffice takes mail by SMTP and gives it back by POP3 and IMAP, with the
// faults that the test asks for.
type postOffice struct {
	store func(n int, user string) []string // mailboxes that message n, to user, goes to
	reply func(n int) string                // to message n; "" closes the connection

	mu    sync.Mutex // guards the following fields
	taken int
	boxes map[string][]string // headers by user
}

func (p *postOffice) listen(t *testing.T, serve func(c net.Conn, r *bufio.Reader)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { serve(c, bufio.NewReader(c)); c.Close() })
		}
	})
	t.Cleanup(func() { l.Close(); serving.Wait() })
	return l.Addr().String()
}

func (p *postOffice) smtp(c net.Conn, r *bufio.Reader) {
	fmt.Fprint(c, "220 hi\r\n")
	var user string
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		switch {
		case strings.HasPrefix(line, "RCPT TO:<"):
			user = strings.Trim(strings.TrimSpace(line[len("RCPT TO:"):]), "<>")
		case strings.HasPrefix(line, "DATA"):
			fmt.Fprint(c, "354 go\r\n")
			if reply := p.take(r, user); reply != "" {
				fmt.Fprint(c, reply+"\r\n")
				continue
			}
			return
		}
		fmt.Fprint(c, "250 ok\r\n")
	}
}

func (p *postOffice) take(r *bufio.Reader, user string) (reply string) {
	var header strings.Builder
	for inHeader := true; ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return ""
		}
		if line == ".\r\n" {
			break
		}
		if inHeader = inHeader && line != "\r\n"; inHeader {
			header.WriteString(line)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.taken
	p.taken++
	for _, u := range p.store(n, user) {
		p.boxes[u] = append(p.boxes[u], header.String())
	}
	return p.reply(n)
}

func (p *postOffice) box(user string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.boxes[user]
}

func (p *postOffice) pop3(c net.Conn, r *bufio.Reader) {
	fmt.Fprint(c, "+OK\r\n")
	var user string
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		f := strings.Fields(line)
		switch f[0] {
		case "USER":
			user = f[1]
			fmt.Fprint(c, "+OK\r\n")
		case "STAT":
			fmt.Fprintf(c, "+OK %d 1\r\n", len(p.box(user)))
		case "TOP":
			var i int
			_, _ = fmt.Sscan(f[1], &i)
			fmt.Fprintf(c, "+OK\r\n%s\r\n.\r\n", p.box(user)[i-1])
		default:
			fmt.Fprint(c, "+OK\r\n")
		}
	}
}

func (p *postOffice) imap(c net.Conn, r *bufio.Reader) {
	fmt.Fprint(c, "* OK\r\n")
	var user string
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		f := strings.Fields(line)
		switch f[1] {
		case "LOGIN":
			user = strings.Trim(f[2], `"`)
		case "SELECT":
			fmt.Fprintf(c, "* %d EXISTS\r\n", len(p.box(user)))
		case "FETCH":
			for i, h := range p.box(user) {
				fmt.Fprintf(c, "* %d FETCH (BODY[HEADER.FIELDS (SUBJECT)] {%d}\r\n%s)\r\n", i+1, len(h), h)
			}
		}
		fmt.Fprintf(c, "%s OK\r\n", f[0])
	}
}

func TestVerify(t *testing.T) {
	ok := func(int) string { return "250 taken" }
	faithful := func(_ int, user string) []string { return []string{user} }
	for name, tt := range map[string]struct {
		store func(n int, user string) []string
		reply func(n int) string
		want  Verified
		bad   bool
	}{
		"faithful": {faithful, ok, Verified{Acknowledged: 20, Found: 20}, false},
		"loses one": {func(n int, user string) []string {
			if n == 7 {
				return nil
			}
			return []string{user}
		}, ok, Verified{Acknowledged: 20, Found: 19, Lost: 1}, true},
		"doubles one": {func(n int, user string) []string {
			if n == 7 {
				return []string{user, user}
			}
			return []string{user}
		}, ok, Verified{Acknowledged: 20, Found: 20, Doubled: 1}, true},
		"misplaces one": {func(n int, user string) []string {
			if n == 7 {
				return []string{map[string]string{"u0@x": "u1@x", "u1@x": "u0@x", "u2@x": "u0@x"}[user]}
			}
			return []string{user}
		}, ok, Verified{Acknowledged: 20, Found: 19, Lost: 1, Misplaced: 1}, true},
		"refuses one and keeps it": {faithful, func(n int) string {
			if n == 7 {
				return "451 try again"
			}
			return "250 taken"
		}, Verified{Acknowledged: 19, Found: 20, Refused: 1}, true},
		"says nothing of two and keeps one": {func(n int, user string) []string {
			if n == 8 {
				return nil
			}
			return []string{user}
		}, func(n int) string {
			if n == 7 || n == 8 {
				return ""
			}
			return "250 taken"
		}, Verified{Acknowledged: 18, Found: 19, Unconfirmed: 1}, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := &postOffice{store: tt.store, reply: tt.reply, boxes: map[string][]string{"u0@x": {"Subject: other mail\r\n"}}}
			pop3, imap := "pop3://"+p.listen(t, p.pop3), "imap://"+p.listen(t, p.imap)
			cfg := Config{
				Protocol: SMTP, Addr: p.listen(t, p.smtp), Conns: 1, Count: 20, Size: 500, Timeout: 5 * time.Second,
				Users: 3, UserPattern: "u%d@x", Verify: pop3,
			}
			res := mustRun(t, cfg)
			if *res.Verify != tt.want || (res.Err() != nil) != tt.bad {
				t.Errorf("POP3: %+v, error %v; want %+v", *res.Verify, res.Err(), tt.want)
			}
			// The same mailboxes still hold the first run's messages.
			cfg.Verify = imap
			p.mu.Lock()
			p.taken = 0
			p.mu.Unlock()
			res = mustRun(t, cfg)
			if *res.Verify != tt.want || (res.Err() != nil) != tt.bad {
				t.Errorf("IMAP: %+v, error %v; want %+v", *res.Verify, res.Err(), tt.want)
			}
		})
	}
}

// What cannot be read is not called lost, and is no success either.
func TestVerifyUnreadMailboxes(t *testing.T) {
	p := &postOffice{
		store: func(_ int, user string) []string { return []string{user} },
		reply: func(int) string { return "250 ok" }, boxes: make(map[string][]string),
	}
	cfg := Config{
		Protocol: SMTP, Addr: p.listen(t, p.smtp), Conns: 1, Count: 4, Users: 2, UserPattern: "u%d@x", Timeout: time.Second,
		Verify: "imap://" + p.listen(t, func(c net.Conn, _ *bufio.Reader) { _, _ = io.WriteString(c, "* BYE no\r\n") }),
	}
	res := mustRun(t, cfg)
	if v := res.Verify; v.Unread != 2 || v.Why != "greeting: * BYE no" || res.Err() == nil {
		t.Errorf("%+v, error %v; want two unread mailboxes", v, res.Err())
	}
}

// A server that queues has the message later.
func TestVerifyWaits(t *testing.T) {
	p := &postOffice{
		store: func(int, string) []string { return []string{"later"} },
		reply: func(int) string { return "250 queued" }, boxes: make(map[string][]string),
	}
	visits := 0
	addr := p.listen(t, func(c net.Conn, r *bufio.Reader) {
		p.mu.Lock()
		if visits++; visits == 2 {
			p.boxes["u0@x"] = p.boxes["later"]
		}
		p.mu.Unlock()
		p.imap(c, r)
	})
	res := mustRun(t, Config{
		Protocol: SMTP, Addr: p.listen(t, p.smtp), Conns: 1, Count: 4, UserPattern: "u%d@x", Timeout: 5 * time.Second,
		Verify: "imap://" + addr, Wait: time.Minute,
	})
	if v := res.Verify; v.Found != 4 || v.Lost != 0 || visits != 2 {
		t.Errorf("%+v after %d visits; want all 4 at the second", v, visits)
	}
}
