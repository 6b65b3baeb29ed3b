package main

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/covey-mail/covey/internal/history"
)

// Mailboxes that the clients use.
const (
	inbox = "INBOX"
	box   = "Kept"
)

var boxes = []string{inbox, box}

// which is the number that package history has for a mailbox.
func which(where string) int { return slices.Index(boxes, where) }

// flag is the keyword that clients set and clear.
const flag1 = "$Chaos"

// address is a user's mail address.
func address(user string) string { return user + "@example.org" }

// An outcome is what a client knows of something it asked for.
type outcome int

const (
	never   outcome = iota // not asked, or refused before it could have an effect
	unknown                // asked, and no answer, or one that leaves it open
	acked
)

// letter is one message in one user's mail.
type letter struct {
	user, token string
	id          int               // for package history
	sum         [sha256.Size]byte // of the text
	added       outcome
	addedTo     string    // mailbox
	sent, told  time.Time // first try; the acknowledgement
	uid         uint32    // in addedTo, if that was told
	moved       outcome   // from INBOX to Kept
	removed     outcome
	flagged     bool
	flagOpen    bool      // the outcome of a flag's change was left open: it may be either
	claimed     bool      // a client works on it
	pending     bool      // acknowledged, perhaps from a queue: its arrival is not in the history yet
	reported    bool      // a violation about it was reported
	openSince   time.Time // when the last outcome was left open
}

// lateness is how long a change whose outcome is open may still come: servers give
// up after a minute, and clients before.
const lateness = 80 * time.Second

// positive is a positive reply to a change.
type positive struct {
	shard      int
	host       *host
	began, got time.Time
	what       string
}

// ledger is what the clients were told, and what they saw.
type ledger struct {
	mu       sync.Mutex // guards the following fields
	began    time.Time
	next     int
	letters  map[string]*letter // user/token
	order    map[string][]*letter
	uids     map[string]string // user/box/validity/uid → token
	uidl     map[string]string // user/uidl → token
	validity map[string]uint32 // user/box
	floor    map[string]uint32 // user/box → highest UIDNEXT told so far
	replies  []positive        // of this round
	history  map[string][]history.Event
	shards   map[string]int // user → shard
	sums     sums
	found    []violation
}

func newLedger() *ledger {
	return &ledger{
		began: time.Now(), letters: make(map[string]*letter), order: make(map[string][]*letter),
		uids: make(map[string]string), uidl: make(map[string]string), validity: make(map[string]uint32),
		floor: make(map[string]uint32), history: make(map[string][]history.Event),
	}
}

// violation is a broken promise.
type violation struct {
	kind string // lost, duplicated, resurrected, …
	text string
}

// Kinds of violations, as the table has them.
const (
	lost          = "lost"
	duplicated    = "duplicated"
	resurrected   = "resurrected"
	corrupted     = "corrupted"
	uidViolation  = "uid"
	flagLost      = "flag"
	untruthful    = "untruthful"
	stale         = "stale" // a reader saw less than one before, or no linear history fits
	bounced       = "bounced"
	divergent     = "divergent"
	crashed       = "crashed"
	unrecovered   = "not recovered"
	brokenSession = "broken"
)

func (l *ledger) reportLocked(kind, format string, args ...any) {
	const most = 200 // one fault can make thousands
	if len(l.found) < most {
		l.found = append(l.found, violation{kind, fmt.Sprintf(format, args...)})
	}
	l.sums.violate(kind)
}

func (l *ledger) report(kind, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reportLocked(kind, format, args...)
}

// compose makes a message; some are larger than one command of the log.
func (l *ledger) compose(r *rand.Rand) (token, text string) {
	l.mu.Lock()
	l.next++
	token = fmt.Sprintf("token-%d", l.next)
	l.mu.Unlock()
	size := 200 + r.IntN(6<<10)
	if r.IntN(60) == 0 {
		size = 300<<10 + r.IntN(300<<10)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Subject: %s\r\nFrom: load@example.net\r\n\r\n", token)
	for b.Len() < size {
		fmt.Fprintf(&b, "%x %x %x %x\r\n", r.Uint64(), r.Uint64(), r.Uint64(), r.Uint64())
	}
	return token, b.String()
}

// sending enters a message that is about to be sent: from now on it may be there.
func (l *ledger) sending(user, token, text, to string) *letter {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := l.letters[user+"/"+token]
	if x == nil {
		x = &letter{user: user, token: token, id: len(l.letters), sum: sha256.Sum256([]byte(text)), addedTo: to, sent: time.Now()}
		l.letters[user+"/"+token] = x
		l.order[user] = append(l.order[user], x)
	}
	if x.added == never {
		x.added = unknown
	}
	x.openSince = time.Now()
	return x
}

// added enters an acknowledged message; uid is 0 if it was not told.
func (l *ledger) added(x *letter, h *host, began time.Time, uid uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sums.Acknowledged++
	l.positiveLocked(x.user, h, began, "message "+x.token)
	if x.added == acked {
		return // a reader has seen it, before its sender tried again
	}
	x.added, x.told = acked, time.Now()
	if uid != 0 {
		x.uid = uid
	}
	l.eventLocked(x.user, history.Event{Change: history.Change{Kind: history.Add, Box: which(x.addedTo), IDs: []int{x.id}}, Result: history.Result{UID: uid}, Call: x.sent, Return: x.told})
}

func (l *ledger) eventLocked(user string, e history.Event) {
	l.history[user] = append(l.history[user], e)
}

// promised enters a message to several that was acknowledged: each has it, or a
// queue has it for him, and it comes later.
func (l *ledger) promised(x *letter, h *host, began time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sums.Acknowledged++
	l.positiveLocked(x.user, h, began, "message "+x.token)
	if x.added != acked {
		x.added, x.told, x.pending = acked, time.Now(), true
	}
}

func (l *ledger) positiveLocked(user string, h *host, began time.Time, what string) {
	l.replies = append(l.replies, positive{l.shards[user], h, began, time.Now(), user + ": " + what})
}

// claim picks up to n letters of a mailbox that nobody works on and whose whole
// state is known, from those for which ok says so.
func (l *ledger) claim(user, where string, n int, ok func(*letter) bool) (picked []*letter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, x := range l.order[user] {
		if len(picked) == n {
			break
		}
		if !x.claimed && x.added == acked && !x.reported && x.moved != unknown && x.removed == never && x.where() == where && ok(x) {
			x.claimed = true
			picked = append(picked, x)
		}
	}
	return picked
}

// where is the mailbox that an acknowledged letter without open moves lies in.
func (x *letter) where() string {
	if x.moved == acked {
		return box
	}
	return x.addedTo
}

// release ends claims.
func (l *ledger) release(list []*letter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, x := range list {
		x.claimed = false
	}
}

// removing enters that deletions are being asked for.
func (l *ledger) removing(list []*letter) {
	l.mark(list, func(x *letter) { x.removed, x.openSince = unknown, time.Now() })
}

func (l *ledger) mark(list []*letter, fn func(*letter)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, x := range list {
		fn(x)
	}
}

// removed enters acknowledged deletions, all by one command.
func (l *ledger) removed(list []*letter, where string, h *host, began time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ids := make([]int, len(list))
	for i, x := range list {
		x.removed, ids[i] = acked, x.id
	}
	l.sums.Changes += len(list)
	user := list[0].user
	l.eventLocked(user, history.Event{Change: history.Change{Kind: history.Remove, Box: which(where), IDs: ids}, Call: began, Return: time.Now()})
	l.positiveLocked(user, h, began, fmt.Sprintf("removal of %s", list[0].token))
}

// movedOne enters an acknowledged move to Kept.
func (l *ledger) movedOne(x *letter, uid uint32, h *host, began time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x.moved = acked
	l.sums.Changes++
	l.eventLocked(x.user, history.Event{Change: history.Change{Kind: history.Move, Box: which(inbox), IDs: []int{x.id}}, Result: history.Result{UID: uid}, Call: began, Return: time.Now()})
	l.positiveLocked(x.user, h, began, "move of "+x.token)
}

// flagging enters that a flag is being changed, and returns whether it is known
// what it was.
func (l *ledger) flagging(x *letter) (known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	known, x.flagOpen = !x.flagOpen, true
	return known
}

// flagSet enters an acknowledged flag. Where a change before was left open, that
// may come later, and nothing is known for good.
func (l *ledger) flagSet(x *letter, on, known bool, h *host, began time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x.flagged, x.flagOpen = on, !known
	l.sums.Changes++
	l.positiveLocked(x.user, h, began, "flag of "+x.token)
}

// identify compares where a message lies with all that was told before.
func (l *ledger) identifyLocked(user, where string, validity, uid uint32, token string) *letter {
	x := l.letters[user+"/"+token]
	if x == nil {
		l.reportLocked(corrupted, "%s has %q in %s under UID %d, which nobody sent there", user, token, where, uid)
		return nil
	}
	key := fmt.Sprintf("%s/%s/%d/%d", user, where, validity, uid)
	if was, ok := l.uids[key]; ok && was != token {
		l.reportLocked(uidViolation, "UID %d in %s of %s was %s and is %s", uid, where, user, was, token)
	}
	l.uids[key] = token
	if where == x.addedTo && x.uid == 0 {
		x.uid = uid
	} else if where == x.addedTo && x.uid != uid {
		l.reportLocked(uidViolation, "%s of %s had UID %d in %s and has %d", token, user, x.uid, where, uid)
	}
	return x
}

// floorOf returns the UIDNEXT below which no later reader may find a mailbox.
func (l *ledger) floorOf(user, where string) uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.floor[user+"/"+where]
}

// observe enters what a reader saw, who began when floor was what it had to see.
func (l *ledger) observe(user, where string, v view, floor uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := user + "/" + where
	if was := l.validity[key]; was != 0 && was != v.validity {
		l.reportLocked(uidViolation, "UIDVALIDITY of %s of %s was %d and is %d", where, user, was, v.validity)
	}
	l.validity[key] = v.validity
	if v.next < floor {
		l.reportLocked(uidViolation, "UIDNEXT of %s of %s was %d and is %d", where, user, floor, v.next)
	}
	l.floor[key] = max(l.floor[key], v.next)
	out := history.Result{Count: v.exists, Next: v.next, Whole: v.whole}
	last := uint32(0)
	for _, r := range v.list {
		if r.uid <= last {
			l.reportLocked(uidViolation, "%s of %s lists UID %d after %d", where, user, r.uid, last)
		}
		last = r.uid
		token := tokenOf(r.text)
		x := l.identifyLocked(user, where, v.validity, r.uid, token)
		if x == nil {
			out.Whole = false
			continue
		}
		out.List = append(out.List, history.Message{UID: r.uid, ID: x.id})
	}
	if !out.Whole {
		out.List = nil
	}
	l.eventLocked(user, history.Event{Change: history.Change{Kind: history.Read, Box: which(where)}, Result: out, Call: v.asked, Return: v.told})
}

// counted enters how many messages a POP3 session began with.
func (l *ledger) counted(user string, c *popConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.eventLocked(user, history.Event{Change: history.Change{Kind: history.Read, Box: which(inbox)}, Result: history.Result{Count: c.count}, Call: c.asked, Return: c.told})
}

// uidlOf compares a message's unique id with those told before.
func (l *ledger) uidlOf(user, uidl, token string) *letter {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := user + "/" + uidl
	if was, ok := l.uidl[key]; ok && was != token {
		l.reportLocked(uidViolation, "unique id %s of %s was %s and is %s", uidl, user, was, token)
	}
	l.uidl[key] = token
	return l.letters[user+"/"+token]
}

// known returns the letter that a unique id was told of before.
func (l *ledger) known(user, uidl string) *letter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if token, ok := l.uidl[user+"/"+uidl]; ok {
		return l.letters[user+"/"+token]
	}
	return nil
}

// tokenOf reads the token from a header or a message.
func tokenOf(text string) string {
	_, rest, ok := strings.Cut(text, "Subject: ")
	if !ok {
		return ""
	}
	token, _, _ := strings.Cut(rest, "\r\n")
	return token
}

// sumOf hashes what the sender sent: the lines that delivery puts in front are cut
// off.
func sumOf(text string) [sha256.Size]byte {
	return sha256.Sum256([]byte(text[max(strings.Index(text, "Subject: "), 0):]))
}

// knownUID enters the UID that a client was told of its own message.
func (l *ledger) knownUID(user, where string, validity, uid uint32, token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.identifyLocked(user, where, validity, uid, token)
}
