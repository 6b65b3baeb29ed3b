package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// load is the clients of the cluster.
type load struct {
	ledger *ledger
	hosts  atomic.Pointer[[]*host] // that clients know
	users  []string
	rate   int // deliveries a second

	gate sync.RWMutex // held for reading during each thing a client does
	wg   sync.WaitGroup

	refusals atomic.Int64 // temporary, before a message was sent
	broken   atomic.Int64 // transactions, after MAIL, whose connection ended
}

// Clients beside the senders, of which each shard has two.
const (
	imapClients = 4
	popClients  = 2
)

// run starts the clients; they end with ctx, and wait waits for them.
func (l *load) run(ctx context.Context, seed uint64) {
	groups := make(map[int][]string)
	for _, u := range l.users {
		s := l.ledger.shards[u]
		groups[s] = append(groups[s], u)
	}
	senders := 2 * len(groups)
	every := time.Duration(senders) * time.Second / time.Duration(l.rate)
	n := uint64(0)
	for shard, group := range groups {
		for k := range 2 {
			n++
			s := &sender{load: l, mine: group, lmtp: k == 1, every: every, r: rand.New(rand.NewPCG(seed, uint64(shard)<<8+uint64(k)))}
			l.wg.Go(func() { s.run(ctx) })
		}
	}
	for i := range imapClients {
		r := rand.New(rand.NewPCG(seed, 1000+uint64(i)))
		l.wg.Go(func() { l.imapClient(ctx, r) })
	}
	for i := range popClients {
		r := rand.New(rand.NewPCG(seed, 2000+uint64(i)))
		l.wg.Go(func() { l.popClient(ctx, r, i) })
	}
}

func (l *load) wait() { l.wg.Wait() }

// pause lets clients end what they do, and holds them until resume.
func (l *load) pause()  { l.gate.Lock() }
func (l *load) resume() { l.gate.Unlock() }

// host picks one that the client has not found dead lately.
func (l *load) host(r *rand.Rand, avoid map[*host]time.Time) *host {
	hosts := *l.hosts.Load()
	for range 4 {
		h := hosts[r.IntN(len(hosts))]
		if time.Since(avoid[h]) > 2*time.Second {
			return h
		}
	}
	return hosts[r.IntN(len(hosts))]
}

// nap waits, or ends with ctx.
func nap(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// sender delivers to the users of one shard, now and then to another's too.
type sender struct {
	*load
	mine  []string
	lmtp  bool
	every time.Duration
	r     *rand.Rand

	conn  *smtpConn
	dead  map[*host]time.Time
	queue []*attempt // what has no reply yet
}

// attempt is one message on its way to recipients.
type attempt struct {
	token, text string
	to          []string
	tries       int
}

// maxTries is how often a sender sends the same octets, as a mail server would
// for days.
const maxTries = 6

func (s *sender) run(ctx context.Context) {
	s.dead = make(map[*host]time.Time)
	for nap(ctx, s.every/2+time.Duration(s.r.Int64N(int64(s.every)))) {
		s.gate.RLock()
		s.once()
		s.gate.RUnlock()
	}
	if s.conn != nil {
		s.conn.close()
	}
}

// once tries one message, an old one first.
func (s *sender) once() {
	var a *attempt
	if len(s.queue) > 0 && s.queue[0].tries > 0 {
		a, s.queue = s.queue[0], s.queue[1:]
	} else {
		a = s.compose()
	}
	a.tries++
	if s.conn == nil {
		h := s.host(s.r, s.dead)
		c, err := smtpOpen(h, s.lmtp)
		if err != nil {
			s.dead[h] = time.Now()
			s.again(a)
			return
		}
		s.conn = c
	}
	if err := s.try(a); err != nil {
		s.dead[s.conn.host] = time.Now()
		s.conn.close()
		s.conn = nil
	} else if s.conn.used++; s.conn.used > 15 {
		s.conn.quit()
		s.conn = nil
	}
	if len(a.to) > 0 {
		s.again(a)
	}
}

// again keeps a message for later; one that was tried often enough stays open.
func (s *sender) again(a *attempt) {
	if a.tries < maxTries {
		s.queue = append(s.queue, a)
	}
}

func (s *sender) compose() *attempt {
	a := &attempt{to: []string{s.mine[s.r.IntN(len(s.mine))]}}
	for range 2 {
		if u := s.users[s.r.IntN(len(s.users))]; s.r.IntN(8) == 0 && u != a.to[0] && (len(a.to) == 1 || u != a.to[1]) {
			a.to = append(a.to, u)
		}
	}
	a.token, a.text = s.ledger.compose(s.r)
	return a
}

// try sends a message to the recipients it still has, and takes those away that
// need no more. An error ends the connection.
func (s *sender) try(a *attempt) error {
	accepted, refused, err := s.conn.begin(a.to)
	for user, err := range refused {
		s.refusals.Add(1)
		if c := code(err); c >= 500 {
			s.ledger.report(bounced, "%s refuses %s for good: %v", s.conn.host.name, user, err)
		}
	}
	if err != nil {
		switch code(err) {
		case 0:
			if s.conn.inside {
				s.broken.Add(1)
			}
		case 421, 451, 452:
			s.refusals.Add(1)
		default:
			s.ledger.report(bounced, "%s refuses a message for good: %v", s.conn.host.name, err)
		}
		return err
	}
	if len(accepted) == 0 {
		return nil
	}
	letters := make([]*letter, len(accepted))
	for i, user := range accepted {
		letters[i] = s.ledger.sending(user, a.token, a.text, inbox)
	}
	began := time.Now()
	for i, err := range s.conn.finish(a.text, accepted) {
		switch c := code(err); {
		case err == nil && !s.lmtp && len(accepted) > 1:
			s.ledger.promised(letters[i], s.conn.host, began)
			a.done(accepted[i])
		case err == nil:
			s.ledger.added(letters[i], s.conn.host, began, 0)
			a.done(accepted[i])
		case c == 0:
			s.broken.Add(1)
			return err
		case c >= 500:
			s.ledger.report(bounced, "%s refuses %s for %s for good: %v", s.conn.host.name, a.token, accepted[i], err)
			a.done(accepted[i])
		case c == 421:
			return err
		}
	}
	return nil
}

// done takes a recipient away.
func (a *attempt) done(user string) {
	for i, u := range a.to {
		if u == user {
			a.to = append(a.to[:i:i], a.to[i+1:]...)
			return
		}
	}
}

// Sizes that clients keep mailboxes at.
const (
	fullInbox = 40
	fullBox   = 25
)

// imapClient opens one session after another.
func (l *load) imapClient(ctx context.Context, r *rand.Rand) {
	dead := make(map[*host]time.Time)
	for nap(ctx, time.Duration(20+r.IntN(60))*time.Millisecond) {
		user, h := l.users[r.IntN(len(l.users))], l.host(r, dead)
		l.gate.RLock()
		c, err := imapLogin(h, user)
		l.gate.RUnlock()
		if err != nil {
			dead[h] = time.Now()
			continue
		}
		s := &imapSession{load: l, c: c, host: h, user: user, r: r}
		for range 6 {
			if err := s.act(ctx); err != nil {
				dead[h] = time.Now()
				break
			}
		}
		c.close()
	}
}

// imapSession is a client that is logged in.
type imapSession struct {
	*load
	c    *imapConn
	host *host
	user string
	r    *rand.Rand
}

// act does one thing; an error ends the session. A refusal leaves nothing open.
func (s *imapSession) act(ctx context.Context) error {
	if !nap(ctx, time.Duration(50+s.r.IntN(150))*time.Millisecond) {
		return ctx.Err()
	}
	s.gate.RLock()
	defer s.gate.RUnlock()
	where := boxes[min(s.r.IntN(3), 1)]
	if s.r.IntN(4) == 0 {
		return s.append(where)
	}
	floor := s.ledger.floorOf(s.user, where)
	v, err := s.c.selectBox("SELECT", where, "BODY.PEEK[HEADER.FIELDS (SUBJECT)]")
	if err != nil {
		return err
	}
	s.ledger.observe(s.user, where, v, floor)
	uids := make(map[string]uint32)
	for _, r := range v.list {
		uids[tokenOf(r.text)] = r.uid
	}
	there := func(x *letter) bool { return uids[x.token] != 0 }
	full := where == inbox && v.exists > fullInbox || where == box && v.exists > fullBox
	switch k := s.r.IntN(6); {
	case full && k < 4:
		return s.expunge(where, uids, s.ledger.claim(s.user, where, v.exists/2, there))
	case k == 0:
		return s.expunge(where, uids, s.ledger.claim(s.user, where, 1+s.r.IntN(3), there))
	case k < 3 && where == inbox:
		return s.move(uids, s.ledger.claim(s.user, where, 1, there))
	default:
		return s.mark(uids, s.ledger.claim(s.user, where, 1, func(x *letter) bool { return there(x) && s.r.IntN(3) == 0 }))
	}
}

func (s *imapSession) append(where string) error {
	token, text := s.ledger.compose(s.r)
	x := s.ledger.sending(s.user, token, text, where)
	began := time.Now()
	_, ok, err := s.c.askLiteral("APPEND "+where, text)
	if err != nil {
		return err // after a refusal too: an unknown outcome may be told as one
	}
	validity, uid := placed(ok)
	if uid == 0 {
		s.ledger.report(uidViolation, "APPEND to %s of %s tells no UID: %s", where, s.user, ok)
	}
	s.ledger.added(x, s.host, began, uid)
	s.ledger.knownUID(s.user, where, validity, uid, token)
	return nil
}

func (s *imapSession) expunge(where string, uids map[string]uint32, list []*letter) error {
	if len(list) == 0 {
		return nil
	}
	defer s.ledger.release(list)
	set := make([]string, len(list))
	for i, x := range list {
		set[i] = fmt.Sprint(uids[x.token])
	}
	began := time.Now()
	if _, _, err := s.c.ask(`UID STORE %s +FLAGS.SILENT (\Deleted)`, strings.Join(set, ",")); err != nil {
		return err
	}
	s.ledger.removing(list)
	if _, _, err := s.c.ask("UID EXPUNGE %s", strings.Join(set, ",")); err != nil {
		return err
	}
	s.ledger.removed(list, where, s.host, began)
	return nil
}

func (s *imapSession) move(uids map[string]uint32, list []*letter) error {
	if len(list) == 0 {
		return nil
	}
	defer s.ledger.release(list)
	x := list[0]
	s.ledger.mark(list, func(x *letter) { x.moved, x.openSince = unknown, time.Now() })
	began := time.Now()
	replies, ok, err := s.c.ask("UID MOVE %d %s", uids[x.token], box)
	if err != nil {
		return err
	}
	validity, uid := placed(ok)
	for _, u := range replies {
		if uid == 0 {
			validity, uid = placed(u.text) // RFC 6851 §4.3: COPYUID comes before the EXPUNGE
		}
	}
	if uid == 0 {
		return errors.New("MOVE of nothing") // a message that is not there any more: stays open, and is looked for
	}
	s.ledger.movedOne(x, uid, s.host, began)
	s.ledger.knownUID(s.user, box, validity, uid, x.token)
	return nil
}

// mark sets or clears a flag.
func (s *imapSession) mark(uids map[string]uint32, list []*letter) error {
	if len(list) == 0 {
		return nil
	}
	defer s.ledger.release(list)
	x := list[0]
	on := !x.flagged
	sign := map[bool]string{true: "+", false: "-"}[on]
	known := s.ledger.flagging(x)
	began := time.Now()
	replies, _, err := s.c.ask("UID STORE %d %sFLAGS (%s)", uids[x.token], sign, flag1)
	if err != nil {
		return err
	}
	for _, u := range replies {
		if strings.Contains(u.text, "FETCH") && strings.Contains(u.text, flag1) == on {
			s.ledger.flagSet(x, on, known, s.host, began)
			break
		}
	}
	return nil
}

// popClient empties maildrops one after the other.
func (l *load) popClient(ctx context.Context, r *rand.Rand, first int) {
	dead := make(map[*host]time.Time)
	for k := first; nap(ctx, time.Duration(100+r.IntN(200))*time.Millisecond); k += popClients {
		h := l.host(r, dead)
		l.gate.RLock()
		if err := l.eat(r, h, l.users[k%len(l.users)]); err != nil && !errors.Is(err, errRefused) {
			dead[h] = time.Now()
		}
		l.gate.RUnlock()
	}
}

func (l *load) eat(r *rand.Rand, h *host, user string) error {
	c, err := popLogin(h, user)
	if err != nil {
		return err
	}
	defer c.close()
	l.ledger.counted(user, c)
	drops, err := c.list()
	if err != nil {
		return err
	}
	numbers := make(map[*letter]int)
	for _, d := range drops {
		x := l.ledger.known(user, d.uidl)
		if x == nil || r.IntN(20) == 0 {
			header, err := c.top(d.number)
			if err != nil {
				return err
			}
			x = l.ledger.uidlOf(user, d.uidl, tokenOf(header))
		}
		if x != nil {
			numbers[x] = d.number
		}
	}
	most := 1
	if len(drops) > fullInbox/2 {
		most = len(drops) / 2
	}
	list := l.ledger.claim(user, inbox, most, func(x *letter) bool { return numbers[x] != 0 })
	if len(list) == 0 {
		_, err := c.ask("QUIT")
		return err
	}
	defer l.ledger.release(list)
	for _, x := range list {
		if _, err := c.ask("DELE %d", numbers[x]); err != nil {
			return err
		}
	}
	l.ledger.removing(list)
	began := time.Now()
	if _, err := c.ask("QUIT"); err != nil {
		return err
	}
	l.ledger.removed(list, inbox, h, began)
	return nil
}
