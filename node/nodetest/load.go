package nodetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// A Load delivers to every user, one message after the other, through running nodes
// in turn, and keeps a ledger.
type Load struct {
	c      *Cluster
	cancel context.CancelFunc
	done   sync.WaitGroup
	start  time.Time

	mu      sync.Mutex // guards what follows
	users   map[string]*Ledger
	through []*Node
}

// A Ledger is what became of one user's messages.
type Ledger struct {
	Acked   []string      // subjects that were answered 250
	Unknown []string      // those of which nobody knows
	Refused []string      // replies that said no, with the time
	Gap     time.Duration // the longest time between two acknowledgements
	Slowest time.Duration // the longest wait for the outcome of one try

	last time.Time
}

// Load begins to deliver to the users of AddUsers until Stop, through the nodes
// given: whoever sends mail tries another host when one is gone.
func (c *Cluster) Load(through ...*Node) *Load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{c: c, cancel: cancel, users: make(map[string]*Ledger), start: time.Now(), through: through}
	for i, u := range Users() {
		b := &Ledger{last: l.start}
		l.users[u] = b
		l.done.Go(func() { l.deliver(ctx, i, u, b) })
	}
	c.t.Cleanup(func() { l.Stop() })
	return l
}

// Through changes the nodes that deliveries go through.
func (l *Load) Through(nodes ...*Node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.through = nodes
}

func (l *Load) node(n int) *Node {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.through[n%len(l.through)]
}

// deliver sends to one user until ctx ends.
func (l *Load) deliver(ctx context.Context, number int, user string, b *Ledger) {
	const pause = 5 * time.Millisecond
	for i := 0; ctx.Err() == nil; i++ {
		subject := fmt.Sprintf("%d-%d", number, i)
		began := time.Now()
		l.note(b, subject, began, l.send(ctx, number+i, user, subject))
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// send tries one node after the other until one greets, as an MTA does that has
// several MX hosts.
func (l *Load) send(ctx context.Context, first int, user, subject string) error {
	for i := first; ; i++ {
		err := l.node(i).Send(user, subject)
		var no *Refusal
		if !errors.As(err, &no) || no.Code != noHost && no.Code != "421" || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (l *Load) note(b *Ledger, subject string, began time.Time, err error) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	b.Slowest = max(b.Slowest, now.Sub(began))
	var no *Refusal
	switch {
	case err == nil:
		b.Acked = append(b.Acked, subject)
		b.Gap = max(b.Gap, now.Sub(b.last))
		b.last = now
	case errors.As(err, &no):
		b.Refused = append(b.Refused, fmt.Sprintf("%v: %v", now.Sub(l.start).Round(time.Millisecond), err))
	default:
		b.Unknown = append(b.Unknown, subject)
	}
}

// Acked returns how many messages were taken so far, of the user who has the
// fewest.
func (l *Load) Acked() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	least := 1 << 30
	for _, b := range l.users {
		least = min(least, len(b.Acked))
	}
	return least
}

// Mark forgets gaps, so that those from now on are measured.
func (l *Load) Mark() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.users {
		b.Gap, b.Slowest, b.last = 0, 0, time.Now()
	}
}

// Ledgers returns a copy of what is known of every user, with the gap that is open
// now.
func (l *Load) Ledgers() map[string]Ledger {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make(map[string]Ledger)
	for u, b := range l.users {
		c := *b
		c.Acked, c.Unknown, c.Refused = slices.Clone(b.Acked), slices.Clone(b.Unknown), slices.Clone(b.Refused)
		c.Gap = max(c.Gap, time.Since(b.last))
		all[u] = c
	}
	return all
}

// Stop ends the load. It may be called again.
func (l *Load) Stop() {
	l.cancel()
	l.done.Wait()
}

// More waits until every user has had so many more messages.
func (l *Load) More(n int) {
	l.c.t.Helper()
	want := make(map[string]int)
	for u, b := range l.Ledgers() {
		want[u] = len(b.Acked) + n
	}
	l.c.WaitFor("more messages are taken", func() bool {
		for u, b := range l.Ledgers() {
			if len(b.Acked) < want[u] {
				return false
			}
		}
		return true
	})
}

// Check stops the load and looks whether every user has what was acknowledged,
// nothing twice and nothing that was refused, with ascending UIDs, as seen through
// every running node.
func (l *Load) Check() {
	t := l.c.t
	t.Helper()
	l.Stop()
	for u, b := range l.Ledgers() {
		for _, n := range l.c.Nodes() {
			if n.Running() {
				l.check(n, u, b)
			}
		}
	}
}

func (l *Load) check(n *Node, user string, b Ledger) {
	t := l.c.t
	t.Helper()
	var list []Mail
	var err error
	for end := time.Now().Add(patience); ; { // a leader may move while we look
		if list, _, err = n.Inbox(user); err == nil || time.Now().After(end) {
			break
		}
		<-time.After(100 * time.Millisecond)
	}
	if err != nil {
		t.Errorf("INBOX of %s at node %d: %v", user, n.number, err)
		return
	}
	times := make(map[string]int)
	for i, m := range list {
		times[m.Subject]++
		if i > 0 && m.UID <= list[i-1].UID {
			t.Errorf("%s at node %d: UID %d behind %d", user, n.number, m.UID, list[i-1].UID)
		}
	}
	for _, s := range b.Acked {
		if times[s] != 1 {
			t.Errorf("%s at node %d: %q was acknowledged and is there %d times", user, n.number, s, times[s])
		}
		delete(times, s)
	}
	for _, s := range b.Unknown {
		if times[s] > 1 {
			t.Errorf("%s at node %d: %q is there %d times", user, n.number, s, times[s])
		}
		delete(times, s)
	}
	for s := range times {
		t.Errorf("%s at node %d: %q is there and was refused", user, n.number, s)
	}
}

// NoFailures fails the test for deliveries that were not acknowledged.
func (l *Load) NoFailures() {
	l.c.t.Helper()
	for u, b := range l.Ledgers() {
		if len(b.Refused) > 0 || len(b.Unknown) > 0 {
			l.c.t.Errorf("%s: %d taken, refused %q, unknown %q", u, len(b.Acked), b.Refused, b.Unknown)
		}
	}
}
