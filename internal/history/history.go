// Package history tries what clients were told of a mail account for
// linearizability: whether there is an order of all that was asked for, each thing
// between its call and its return, in which an account would have answered so
// (Herlihy and Wing, "Linearizability", 1990). Package porcupine does the search.
package history

import (
	"fmt"
	"hash/fnv"
	"slices"
	"sort"
	"time"

	"github.com/anishathalye/porcupine"
)

// A Kind is what a client does to an account.
type Kind int

const (
	Add    Kind = iota // one message, to Box
	Move               // one message, from Box to mailbox 1
	Remove             // messages, from Box
	Read               // all or some of what Box has
)

// A Change is one thing asked for. The two mailboxes of an account, 0 and 1, are one
// object, for a move is one step. A message has an id, which its sender gave it.
type Change struct {
	Kind Kind
	Box  int
	IDs  []int
}

// A Result is what was answered. Zero values were not told.
type Result struct {
	UID   uint32 // of an add or a move
	Count int    // of messages; a read always tells
	Next  uint32 // UIDNEXT
	Whole bool   // List is the mailbox
	List  []Message
}

// A Message is one in the order of its mailbox.
type Message struct {
	UID uint32
	ID  int
}

// An Event is one thing that took effect between two moments.
type Event struct {
	Change
	Result
	Call, Return time.Time
}

// An Account is the model's state: two mailboxes.
type Account struct {
	Next [2]uint32 // UIDNEXT
	List [2][]Message
}

// step is the model: whether an account may answer so, and what it is afterwards.
func (a Account) step(in Change, out Result) (bool, Account) {
	b := in.Box
	switch in.Kind {
	case Add:
		if out.UID != 0 && out.UID != a.Next[b] {
			return false, a
		}
		return true, a.with(b, in.IDs[0])
	case Move:
		i := a.index(b, in.IDs[0])
		if i < 0 || out.UID != 0 && out.UID != a.Next[1] {
			return false, a
		}
		return true, a.without(b, i).with(1, in.IDs[0])
	case Remove:
		for _, id := range in.IDs {
			i := a.index(b, id)
			if i < 0 {
				return false, a
			}
			a = a.without(b, i)
		}
		return true, a
	default:
		if out.Count != len(a.List[b]) || out.Next != 0 && out.Next != a.Next[b] {
			return false, a
		}
		return !out.Whole || slices.Equal(out.List, a.List[b]), a
	}
}

func (a Account) index(b, id int) int {
	return slices.IndexFunc(a.List[b], func(p Message) bool { return p.ID == id })
}

func (a Account) with(b, id int) Account {
	a.List[b] = append(slices.Clip(a.List[b]), Message{a.Next[b], id})
	a.Next[b]++
	return a
}

func (a Account) without(b, i int) Account {
	a.List[b] = slices.Concat(a.List[b][:i], a.List[b][i+1:])
	return a
}

func (a Account) equal(o Account) bool {
	return a.Next == o.Next && slices.Equal(a.List[0], o.List[0]) && slices.Equal(a.List[1], o.List[1])
}

func (a Account) hash() uint64 {
	h := fnv.New64a()
	for b := range a.List {
		for _, p := range a.List[b] {
			_, _ = h.Write([]byte{byte(p.UID), byte(p.UID >> 8), byte(p.ID), byte(p.ID >> 8), byte(p.ID >> 16)})
		}
		_, _ = h.Write([]byte{0xff, byte(a.Next[b])})
	}
	return h.Sum64()
}

// Check reports whether some order of the events, each between its call and its
// return, is one that an account could have gone through from its first state. It
// may be undecided after the limit.
func Check(from Account, events []Event, limit time.Duration) porcupine.CheckResult {
	model := porcupine.Model{
		Init: func() any { return from },
		Step: func(state, in, out any) (bool, any) {
			return state.(Account).step(in.(Change), out.(Result))
		},
		Equal: func(a, b any) bool { return a.(Account).equal(b.(Account)) },
		Hash:  func(a any) uint64 { return a.(Account).hash() },
	}
	ops := make([]porcupine.Operation, len(events))
	for i, e := range events {
		ops[i] = porcupine.Operation{Input: e.Change, Output: e.Result, Call: e.Call.UnixNano(), Return: e.Return.UnixNano()}
	}
	return porcupine.CheckOperationsTimeout(model, ops, limit)
}

// Shortest describes the end of the shortest beginning of a history that has no
// order, by the time of returns.
func Shortest(from Account, events []Event) string {
	events = slices.Clone(events)
	slices.SortFunc(events, func(a, b Event) int { return a.Return.Compare(b.Return) })
	n := sort.Search(len(events), func(i int) bool {
		return Check(from, prefix(events, i+1), 2*time.Second) == porcupine.Illegal
	})
	n = min(n, len(events)-1)
	e := events[n]
	return fmt.Sprintf("%+v, event %d of them, at %s", e, n+1, e.Return.Format("15:04:05.000"))
}

// prefix is the history as it was known when event n-1 returned. Later events may
// have begun already and have had their effect: they are kept, if they are changes,
// and may come at any time.
func prefix(events []Event, n int) []Event {
	at := events[n-1].Return
	list := slices.Clone(events[:n])
	for _, e := range events[n:] {
		if e.Kind != Read && !e.Call.After(at) {
			list = append(list, e)
		}
	}
	return list
}
