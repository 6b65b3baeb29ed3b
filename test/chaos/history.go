package main

import (
	"hash/fnv"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// What clients do to an account, for the model: the two mailboxes of an account
// are one object, for a move is one step.
type doing int

const (
	doAdd doing = iota
	doMove
	doRemove
	doRead
)

// change is one thing asked for.
type change struct {
	kind doing
	box  string
	ids  []int
}

// result is what was answered. Zero values were not told.
type result struct {
	uid   uint32 // of an add or a move
	count int    // of messages
	next  uint32 // UIDNEXT
	whole bool   // list is the mailbox
	list  []placedID
}

// placedID is one message in the order of its mailbox.
type placedID struct {
	uid uint32
	id  int
}

// event is one thing that took effect between two moments.
type event struct {
	in        change
	out       result
	call, ret time.Time
}

func (l *ledger) eventLocked(user string, e event) {
	l.history[user] = append(l.history[user], e)
}

// account is the model's state: two mailboxes.
type account struct {
	next [2]uint32
	list [2][]placedID
}

func which(where string) int { return slices.Index(boxes, where) }

// step is the model: whether an account may answer so, and what it is afterwards.
func (a account) step(in change, out result) (bool, account) {
	b := which(in.box)
	switch in.kind {
	case doAdd:
		if out.uid != 0 && out.uid != a.next[b] {
			return false, a
		}
		return true, a.with(b, in.ids[0])
	case doMove:
		i := a.index(b, in.ids[0])
		if i < 0 || out.uid != 0 && out.uid != a.next[1] {
			return false, a
		}
		return true, a.without(b, i).with(1, in.ids[0])
	case doRemove:
		for _, id := range in.ids {
			i := a.index(b, id)
			if i < 0 {
				return false, a
			}
			a = a.without(b, i)
		}
		return true, a
	default:
		if out.count != len(a.list[b]) || out.next != 0 && out.next != a.next[b] {
			return false, a
		}
		return !out.whole || slices.Equal(out.list, a.list[b]), a
	}
}

func (a account) index(b, id int) int {
	return slices.IndexFunc(a.list[b], func(p placedID) bool { return p.id == id })
}

func (a account) with(b, id int) account {
	a.list[b] = append(slices.Clip(a.list[b]), placedID{a.next[b], id})
	a.next[b]++
	return a
}

func (a account) without(b, i int) account {
	a.list[b] = slices.Concat(a.list[b][:i], a.list[b][i+1:])
	return a
}

func (a account) equal(o account) bool {
	return a.next == o.next && slices.Equal(a.list[0], o.list[0]) && slices.Equal(a.list[1], o.list[1])
}

func (a account) hash() uint64 {
	h := fnv.New64a()
	for b := range a.list {
		for _, p := range a.list[b] {
			_, _ = h.Write([]byte{byte(p.uid), byte(p.uid >> 8), byte(p.id), byte(p.id >> 8), byte(p.id >> 16)})
		}
		_, _ = h.Write([]byte{0xff, byte(a.next[b])})
	}
	return h.Sum64()
}

// linearizable reports whether some order of the events, each between its call and
// its return, is one that an account could have gone through from its first state.
// It may be undecided after the limit.
func linearizable(from account, events []event, limit time.Duration) porcupine.CheckResult {
	model := porcupine.Model{
		Init: func() any { return from },
		Step: func(state, in, out any) (bool, any) {
			return state.(account).step(in.(change), out.(result))
		},
		Equal: func(a, b any) bool { return a.(account).equal(b.(account)) },
		Hash:  func(a any) uint64 { return a.(account).hash() },
	}
	ops := make([]porcupine.Operation, len(events))
	for i, e := range events {
		ops[i] = porcupine.Operation{Input: e.in, Output: e.out, Call: e.call.UnixNano(), Return: e.ret.UnixNano()}
	}
	return porcupine.CheckOperationsTimeout(model, ops, limit)
}
