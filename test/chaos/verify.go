package main

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/covey-mail/covey/internal/history"
)

// found is where a letter lies at the end of a round.
type found struct {
	where   string
	flagged bool
	sum     [sha256.Size]byte
}

// readAll reads every mailbox of every user, with no client about, and returns the
// states and places. Users are spread over the hosts.
func (l *ledger) readAll(users []string, pick func(i int) *host) (map[string]history.Account, map[string]map[string][]found, error) {
	states, places := make(map[string]history.Account), make(map[string]map[string][]found)
	var mu sync.Mutex // guards states, places and failed
	var failed error
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4)
	for i, user := range users {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			state, place, err := l.readUser(user, func(try int) *host { return pick(i + try) })
			mu.Lock()
			defer mu.Unlock()
			states[user], places[user] = state, place
			if err != nil && failed == nil {
				failed = fmt.Errorf("read mail of %s: %w", user, err)
			}
		})
	}
	wg.Wait()
	return states, places, failed
}

// readUser tries until the mail of one user was read; leaders may still move.
func (l *ledger) readUser(user string, pick func(try int) *host) (state history.Account, place map[string][]found, err error) {
	for try, end := 0, time.Now().Add(20*time.Second); try == 0 || time.Now().Before(end); try++ {
		h := pick(try)
		if state, place, err = l.readOnce(user, h); err == nil {
			return state, place, nil
		}
		err = fmt.Errorf("at %s: %w", h.name, err)
		<-time.After(200 * time.Millisecond)
	}
	return state, place, err
}

func (l *ledger) readOnce(user string, h *host) (state history.Account, place map[string][]found, err error) {
	c, err := imapLogin(h, user)
	if err != nil {
		return state, nil, err
	}
	defer c.close()
	place = make(map[string][]found)
	for b, where := range boxes {
		floor := l.floorOf(user, where)
		v, err := c.selectBox("EXAMINE", where, "BODY.PEEK[]")
		if err != nil {
			return state, nil, err
		}
		if !v.whole {
			return state, nil, fmt.Errorf("%s changes while nobody uses it: %d messages, %d listed", where, v.exists, len(v.list))
		}
		l.observe(user, where, v, floor)
		state.Next[b] = v.next
		l.mu.Lock()
		for _, r := range v.list {
			token := tokenOf(r.text)
			place[token] = append(place[token], found{where, strings.Contains(r.flags, " "+flag1+" "), sumOf(r.text)})
			if x := l.letters[user+"/"+token]; x != nil {
				state.List[b] = append(state.List[b], history.Message{UID: r.uid, ID: x.id})
			}
		}
		l.mu.Unlock()
	}
	return state, place, nil
}

// settle compares what is there with what the clients were told, resolves what was
// left open, and returns this round's history of each user, which begins anew.
func (l *ledger) settle(users []string, began time.Time, places map[string]map[string][]found) map[string][]history.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, user := range users {
		for _, x := range l.order[user] {
			l.settleLocked(x, places[user][x.token], began)
		}
		l.orderLocked(user)
	}
	h := l.history
	l.history = make(map[string][]history.Event)
	return h
}

func (l *ledger) settleLocked(x *letter, at []found, began time.Time) {
	now := time.Now()
	complain := func(kind, format string, args ...any) {
		if !x.reported {
			x.reported = true
			l.reportLocked(kind, "%s of %s (sent %s): %s", x.token, x.user, x.sent.Format(stamp), fmt.Sprintf(format, args...))
		}
	}
	for _, f := range at {
		if f.sum != x.sum {
			complain(corrupted, "has other bytes than were sent")
		}
	}
	if len(at) > 1 {
		complain(duplicated, "is there %d times", len(at))
	}
	if x.pending && (len(at) > 0 || x.removed != never) {
		x.pending, x.told = false, now
		l.eventLocked(x.user, history.Event{Call: later(x.sent, began), Return: now, Change: history.Change{Kind: history.Add, Box: which(x.addedTo), IDs: []int{x.id}}})
	}
	open := history.Event{Call: later(x.openSince, began), Return: now, Change: history.Change{Box: which(x.addedTo), IDs: []int{x.id}}}
	if len(at) == 0 {
		switch {
		case x.added != acked:
		case x.removed == never:
			complain(lost, "was acknowledged at %s and is not there", x.told.Format(stamp))
		case x.removed == unknown:
			open.Kind, open.Box = history.Remove, which(x.where())
			l.eventLocked(x.user, open)
			x.removed = acked
		}
		return
	}
	if x.added == unknown {
		open.Call = later(x.sent, began)
		l.eventLocked(x.user, open)
		x.added, x.told = acked, now
	}
	switch {
	case x.removed == acked:
		complain(resurrected, "was deleted and is in %s", at[0].where)
	case x.removed == unknown && now.Sub(x.openSince) > lateness:
		x.removed = never
	}
	switch {
	case x.moved == acked && at[0].where != box:
		complain(resurrected, "was moved and is in %s", at[0].where)
	case x.moved == never && at[0].where != x.addedTo:
		complain(uidViolation, "was put into %s and is in %s", x.addedTo, at[0].where)
	case x.moved == unknown && at[0].where == box:
		open.Kind = history.Move
		l.eventLocked(x.user, open)
		x.moved = acked
	case x.moved == unknown && now.Sub(x.openSince) > lateness:
		x.moved = never
	}
	if !x.flagOpen && at[0].flagged != x.flagged {
		complain(flagLost, "flagged is %v and should be %v", at[0].flagged, x.flagged)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// orderLocked checks that UIDs ascend with time: a message that was sent after
// another was acknowledged has the higher one.
func (l *ledger) orderLocked(user string) {
	for _, where := range boxes {
		var list []*letter
		for _, x := range l.order[user] {
			if x.addedTo == where && x.uid != 0 && x.added == acked && !x.pending {
				list = append(list, x)
			}
		}
		slices.SortFunc(list, func(a, b *letter) int { return cmp.Compare(b.uid, a.uid) })
		var first *letter // of those with higher UIDs, the one acknowledged first
		for _, x := range list {
			if first != nil && x.sent.After(first.told) && !x.reported {
				x.reported = true
				l.reportLocked(uidViolation, "%s of %s was sent after %s was acknowledged, and has UID %d before %d", x.token, user, first.token, x.uid, first.uid)
			}
			if first == nil || x.told.Before(first.told) {
				first = x
			}
		}
	}
}

// checkHistories tries every user's history of a round.
func (l *ledger) checkHistories(from map[string]history.Account, histories map[string][]history.Event, limit time.Duration) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, 2)
	for user, events := range histories {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			res := history.Check(from[user], events, limit)
			l.mu.Lock()
			defer l.mu.Unlock()
			l.sums.Histories++
			switch res {
			case porcupine.Illegal:
				l.reportLocked(stale, "no order of the %d events of %s explains what was told: %s", len(events), user, history.Shortest(from[user], events))
			case porcupine.Unknown:
				l.sums.Undecided++
			case porcupine.Ok:
			}
		})
	}
	wg.Wait()
}
