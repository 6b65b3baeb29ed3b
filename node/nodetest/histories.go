package nodetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/covey-mail/covey/internal/history"
	"github.com/covey-mail/covey/node/admin"
)

// boxes are the mailboxes of an account that a history is about.
var boxes = [2]string{"INBOX", "Kept"}

// Clients of each account, how long they pause, and how many messages they keep
// about.
const (
	historyClients  = 2
	historyPause    = 30 * time.Millisecond
	historyMessages = 12
)

// A History is what IMAP clients ask of an account, through whatever node runs, and
// what they are told: they append, move, expunge and look.
type History struct {
	c      *Cluster
	user   string
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex // guards what follows
	last   int        // id given
	free   []letter   // that nobody works on, and whose place is known
	events []history.Event
	open   []history.Event // of which nobody knows whether they had an effect
}

// A letter is a message and where it lies.
type letter struct {
	history.Message
	box int
}

// Histories makes so many accounts and begins to use them, until Check.
func (c *Cluster) Histories(accounts int) (all []*History) {
	c.t.Helper()
	hash := saltedHash("secret")
	for i := range accounts {
		h := &History{c: c, user: fmt.Sprintf("h%d@example.org", i)}
		c.addUser(admin.UserRequest{Address: h.user, Hash: &hash})
		c.WaitFor("there is a mailbox", func() bool {
			return h.with(c.nodes[0], func(d *Dialogue) error {
				_, err := d.IMAP("CREATE " + boxes[1])
				return err
			}) == nil
		})
		ctx, cancel := context.WithCancel(context.Background())
		h.cancel = cancel
		for n := range historyClients {
			r := rand.New(rand.NewPCG(uint64(i), uint64(n)))
			h.done.Go(func() { h.use(ctx, r) })
		}
		c.t.Cleanup(h.stop)
		all = append(all, h)
	}
	return all
}

func (h *History) stop() {
	h.cancel()
	h.done.Wait()
}

// use does one thing after the other until ctx ends.
func (h *History) use(ctx context.Context, r *rand.Rand) {
	for ctx.Err() == nil {
		nodes := h.c.Nodes()
		n := nodes[r.IntN(len(nodes))]
		_ = h.with(n, func(d *Dialogue) error { // it is down, or what was told is entered
			switch what := r.IntN(10); {
			case what < 4:
				return h.add(d)
			case what < 5:
				return h.move(d)
			case what < 7:
				return h.remove(d)
			}
			_, err := h.look(d, r.IntN(2))
			return err
		})
		select {
		case <-ctx.Done():
		case <-time.After(historyPause):
		}
	}
}

// with runs f in a session at a node.
func (h *History) with(n *Node, f func(*Dialogue) error) error {
	d, err := n.Login(h.user)
	if err != nil {
		return err
	}
	defer d.Close()
	return f(d)
}

// enter takes down what became of a change: it was done, or nobody knows. A NO may
// say that nobody knows, too.
func (h *History) enter(e history.Event, err error) {
	e.Return = time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		h.events = append(h.events, e)
	} else {
		h.open = append(h.open, e)
	}
}

func (h *History) add(d *Dialogue) error {
	h.mu.Lock()
	full := len(h.free) >= historyMessages
	h.last++
	id := h.last
	h.mu.Unlock()
	if full {
		return nil
	}
	text := fmt.Sprintf("Subject: %d\r\n\r\n", id)
	e := history.Event{Change: history.Change{Kind: history.Add, IDs: []int{id}}, Call: time.Now()}
	lines, err := d.IMAP(fmt.Sprintf("APPEND %s {%d+}\r\n%s", boxes[0], len(text), text))
	if err == nil {
		e.UID, err = uidIn(lines, "APPENDUID", 2)
	}
	h.enter(e, err)
	if err == nil {
		h.give(letter{history.Message{UID: e.UID, ID: id}, 0})
	}
	return err
}

func (h *History) move(d *Dialogue) error {
	x, ok := h.take(0)
	if !ok {
		return nil
	}
	if _, err := d.IMAP("SELECT " + boxes[0]); err != nil {
		h.give(x)
		return err
	}
	e := history.Event{Change: history.Change{Kind: history.Move, IDs: []int{x.ID}}, Call: time.Now()}
	lines, err := d.IMAP(fmt.Sprintf("UID MOVE %d %s", x.UID, boxes[1]))
	if err == nil {
		e.UID, err = uidIn(lines, "COPYUID", 3)
	}
	h.enter(e, err)
	if err == nil {
		h.give(letter{history.Message{UID: e.UID, ID: x.ID}, 1})
	}
	return err
}

func (h *History) remove(d *Dialogue) error {
	x, ok := h.take(-1)
	if !ok {
		return nil
	}
	_, err := d.IMAP("SELECT " + boxes[x.box])
	if err == nil {
		_, err = d.IMAP(fmt.Sprintf(`UID STORE %d +FLAGS.SILENT (\Deleted)`, x.UID))
	}
	if err != nil {
		h.give(x)
		return err
	}
	e := history.Event{Change: history.Change{Kind: history.Remove, Box: x.box, IDs: []int{x.ID}}, Call: time.Now()}
	_, err = d.IMAP(fmt.Sprintf("UID EXPUNGE %d", x.UID))
	h.enter(e, err)
	return err
}

// look opens a mailbox and lists it. whole says that the list is all that was there.
func (h *History) look(d *Dialogue, box int) (whole bool, err error) {
	e := history.Event{Change: history.Change{Kind: history.Read, Box: box}, Call: time.Now()}
	lines, err := d.IMAP("EXAMINE " + boxes[box])
	e.Return = time.Now()
	if err != nil {
		return false, err
	}
	for _, l := range lines {
		var n uint32
		if _, err := fmt.Sscanf(l, "* %d EXISTS", &n); err == nil {
			e.Count = int(n)
		}
		if _, err := fmt.Sscanf(l, "* OK [UIDNEXT %d]", &n); err == nil {
			e.Next = n
		}
	}
	if e.Next == 0 {
		return false, fmt.Errorf("EXAMINE without UIDNEXT: %q", lines)
	}
	if e.Whole = e.Count == 0; !e.Whole {
		e.List, err = list(d)
		e.Whole = err == nil && len(e.List) == e.Count
	}
	if !e.Whole { // what EXAMINE told is worth something
		e.List = nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
	return e.Whole, err
}

// list returns what an open mailbox has, none if that changes meanwhile.
func list(d *Dialogue) (list []history.Message, err error) {
	lines, err := d.IMAP(fetchSubjects)
	if err != nil {
		return nil, err
	}
	for _, l := range lines {
		if strings.HasSuffix(l, " EXISTS") || strings.HasSuffix(l, " EXPUNGE") || strings.HasPrefix(l, "* VANISHED") {
			return nil, nil // another moment's list
		}
	}
	mail, err := mailIn(lines)
	for _, m := range mail {
		id, err := strconv.Atoi(m.Subject)
		if err != nil {
			return nil, fmt.Errorf("UID %d: no id: %w", m.UID, err)
		}
		list = append(list, history.Message{UID: uint32(m.UID), ID: id})
	}
	return list, err
}

// uidIn finds the number that a response code tells, the last of so many words behind
// its name.
func uidIn(lines []string, code string, words int) (uint32, error) {
	for _, l := range lines {
		_, rest, ok := strings.Cut(l, "["+code+" ")
		if !ok {
			continue
		}
		rest, _, _ = strings.Cut(rest, "]")
		if f := strings.Fields(rest); len(f) == words {
			uid, err := strconv.ParseUint(f[words-1], 10, 32)
			return uint32(uid), err
		}
	}
	return 0, fmt.Errorf("no %s in %q", code, lines)
}

// take takes a letter out that lies in a mailbox, any for -1.
func (h *History) take(box int) (letter, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.IndexFunc(h.free, func(x letter) bool { return box < 0 || x.box == box })
	if i < 0 {
		return letter{}, false
	}
	x := h.free[i]
	h.free = slices.Delete(h.free, i, i+1)
	return x, true
}

// give puts a letter back.
func (h *History) give(x letter) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.free = append(h.free, x)
}

// Check ends the clients, has every running node show the account, and fails the test
// unless some order of all that was asked explains all that was told.
func (h *History) Check() {
	t := h.c.t
	t.Helper()
	h.stop()
	for _, n := range h.c.Nodes() {
		if !n.Running() {
			continue
		}
		for box := range boxes {
			h.c.WaitFor("the account of a history is shown", func() (whole bool) {
				_ = h.with(n, func(d *Dialogue) (err error) {
					whole, err = h.look(d, box)
					return err
				})
				return whole
			})
		}
	}
	h.settle()
	t.Logf("%s: %d events, %d of them open changes at first", h.user, len(h.events), len(h.open))
	empty := history.Account{Next: [2]uint32{1, 1}}
	const limit = 20 * time.Second
	switch history.Check(empty, h.events, limit) {
	case porcupine.Illegal:
		t.Errorf("%s: no order of %d events explains what was told: %s", h.user, len(h.events), history.Shortest(empty, h.events))
	case porcupine.Unknown:
		t.Logf("%s: %d events: not decided within %v", h.user, len(h.events), limit)
	case porcupine.Ok:
	}
}

// settle enters the open changes that had an effect, as the last looks show. Nobody
// touched the letters of the others again, so that they explain nothing.
func (h *History) settle() {
	h.mu.Lock()
	defer h.mu.Unlock()
	where := make(map[int]int) // box of each id that is there
	seen := [2]bool{}
	for _, e := range slices.Backward(h.events) {
		if e.Kind != history.Read || seen[e.Box] || !e.Whole {
			continue
		}
		seen[e.Box] = true
		for _, m := range e.List {
			where[m.ID] = e.Box
		}
	}
	for _, e := range h.open {
		box, there := where[e.IDs[0]]
		if e.Kind == history.Remove && !there || e.Kind == history.Add && there || e.Kind == history.Move && there && box == 1 {
			e.Return = time.Now()
			h.events = append(h.events, e)
		}
	}
}
