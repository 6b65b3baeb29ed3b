package bench

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/covey-mail/covey"
)

// Verified is what was found in the mailboxes of what was sent.
type Verified struct {
	Acknowledged int64  `json:"acknowledged"`        // messages that the server took
	Found        int64  `json:"found"`               // messages of this run in their mailboxes
	Lost         int64  `json:"lost"`                // acknowledged and not there
	Doubled      int64  `json:"doubled"`             // there more than once
	Misplaced    int64  `json:"misplaced"`           // in a mailbox that they were not sent to
	Refused      int64  `json:"refused"`             // refused, and there all the same
	Unconfirmed  int64  `json:"unconfirmed"`         // sent without a reply, and there: as it may be
	Unread       int64  `json:"unread_mailboxes"`    // mailboxes that could not be read
	Why          string `json:"why_unread,omitzero"` // of one of them
}

// Err says what is wrong, nil if all is as it should be.
func (v *Verified) Err() error {
	switch {
	case v.Unread > 0:
		return fmt.Errorf("%d mailboxes could not be read (%s): nothing is known of their messages; check the address given with --verify, --user-pattern and --password", v.Unread, v.Why)
	case v.Lost > 0 || v.Doubled > 0 || v.Misplaced > 0 || v.Refused > 0:
		return covey.Errorf(covey.Corrupt, "of %d acknowledged messages %d are lost, %d doubled, %d misplaced; %d refused ones are there",
			v.Acknowledged, v.Lost, v.Doubled, v.Misplaced, v.Refused)
	}
	return nil
}

// source is where messages are counted back from.
type source struct {
	protocol Protocol
	security Security
	addr     string
}

// splitVerify takes pop3://host:port and the like apart.
func splitVerify(url string) (source, error) {
	name, addr, ok := strings.Cut(url, "://")
	s := source{Protocol(name), None, strings.TrimSuffix(addr, "/")}
	if plain, tls := strings.CutSuffix(name, "s"); tls {
		s.protocol, s.security = Protocol(plain), Implicit
	}
	if ok && addr != "" && (s.protocol == POP3 || s.protocol == IMAP) {
		return s, nil
	}
	return source{}, covey.Errorf(covey.Invalid, "verify against pop3, pop3s, imap or imaps://host:port, not %q", url)
}

// A reader finds the messages of a run in one user's mailbox.
type reader interface {
	// search calls found with the number of each message of the run.
	search(ctx context.Context, user int, run string, found func(n int64)) error
	close()
}

// verifyConns is how many mailboxes are read at a time.
const verifyConns = 16

// again is the pause before mailboxes are read again for what is still missing.
const again = 250 * time.Millisecond

// verify counts the messages back until none is missing or cfg.Wait is over.
func verify(ctx context.Context, cfg Config, run string, sent *ledger) *Verified {
	begin := time.Now()
	for {
		v := count(ctx, cfg, run, sent)
		if v.Err() == nil || v.Doubled > 0 || time.Since(begin)+again > cfg.Wait {
			return v
		}
		select {
		case <-ctx.Done():
			return v
		case <-time.After(again):
		}
	}
}

// count reads the mailboxes once.
func count(ctx context.Context, cfg Config, run string, sent *ledger) *Verified {
	list := sent.recipients()
	next := make(chan int)
	c := &counting{sent: sent}
	var workers sync.WaitGroup
	for i := range min(verifyConns, len(list)) {
		workers.Go(func() {
			r := newReader(cfg, i)
			for user := range next {
				c.enter(user, func(found func(n int64)) error { return r.search(ctx, user, run, found) })
			}
			r.close()
		})
	}
	watch := startWatch(cfg, "verify", c.counts)
	for _, user := range list {
		next <- user
	}
	close(next)
	workers.Wait()
	watch.stop()
	v := sent.compare(&c.tally)
	v.Unread, v.Why = c.unread, c.why
	return v
}

// counting is shared by the workers of one count.
type counting struct {
	mu     sync.Mutex // guards the following fields, but what sent holds is only read
	sent   *ledger
	tally  tally
	read   int64
	unread int64
	why    string
}

// enter searches one mailbox and counts what it held. A mailbox that breaks off
// counts as unread, so that nothing is called lost that was not looked for.
func (c *counting) enter(user int, search func(found func(n int64)) error) {
	err := search(func(n int64) {
		c.mu.Lock()
		c.tally.add(c.sent, n, user)
		c.mu.Unlock()
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.unread++
		c.why = err.Error()
		return
	}
	c.read++
}

func (c *counting) counts() (done, failed int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.read, c.unread
}

func newReader(cfg Config, worker int) reader {
	from, _ := splitVerify(cfg.Verify) // validate has passed it
	cfg.Protocol, cfg.Addr, cfg.TLS = from.protocol, from.addr, from.security
	if cfg.Protocol == POP3 {
		return &pop3Session{cfg: cfg, who: newNames(cfg), to: newTarget(cfg, worker)}
	}
	return &imapSession{cfg: cfg, who: newNames(cfg), to: newTarget(cfg, worker)}
}

func (s *pop3Session) search(ctx context.Context, user int, run string, found func(n int64)) error {
	defer s.close()
	if err := s.login(ctx, user); err != nil {
		return err
	}
	count, err := s.stat()
	if err != nil {
		return err
	}
	var header []byte
	for i := 1; i <= count; i++ {
		s.c.arm(s.cfg.Timeout)
		header = header[:0]
		if err := s.top(i, &header); err != nil {
			return err
		}
		if n, ok := findToken(string(header), run); ok {
			found(n)
		}
	}
	_, err = s.command("QUIT", "QUIT\r\n")
	return err
}

func (s *imapSession) search(ctx context.Context, user int, run string, found func(n int64)) error {
	defer s.close()
	if err := s.login(ctx, user); err != nil {
		return err
	}
	if err := s.selectInbox(); err != nil {
		return err
	}
	if s.count > 0 {
		s.r.keep = true
		err := s.command("FETCH subjects", "FETCH 1:* BODY.PEEK[HEADER.FIELDS (SUBJECT)]", func() {
			s.c.arm(s.cfg.Timeout)
			if n, ok := findToken(string(s.r.text), run); ok {
				found(n)
			}
		})
		if err != nil {
			return err
		}
	}
	return s.command("LOGOUT", "LOGOUT", nil)
}
