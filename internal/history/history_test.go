package history

import (
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// at is a moment of a test, in milliseconds.
func at(ms int) time.Time { return time.Unix(1000, 0).Add(time.Duration(ms) * time.Millisecond) }

func add(id int, uid uint32, call, ret int) Event {
	return Event{Change{Add, 0, []int{id}}, Result{UID: uid}, at(call), at(ret)}
}

func read(count int, next uint32, call, ret int) Event {
	return Event{Change{Read, 0, nil}, Result{Count: count, Next: next}, at(call), at(ret)}
}

func readList(call, ret int, list ...Message) Event {
	return Event{Change{Read, 0, nil}, Result{Count: len(list), Whole: true, List: list}, at(call), at(ret)}
}

func TestLinearizable(t *testing.T) {
	empty := Account{Next: [2]uint32{1, 1}}
	one := Account{Next: [2]uint32{2, 1}, List: [2][]Message{{{1, 7}}, nil}}
	for _, tt := range []struct {
		name   string
		from   Account
		events []Event
		want   porcupine.CheckResult
	}{
		{"in order", empty, []Event{add(1, 1, 0, 1), read(1, 2, 2, 3), add(2, 2, 4, 5), readList(6, 7, Message{1, 1}, Message{2, 2})}, porcupine.Ok},
		{"concurrent, either order", empty, []Event{add(1, 0, 0, 10), add(2, 0, 0, 10), readList(11, 12, Message{1, 2}, Message{2, 1})}, porcupine.Ok},
		{"stale read", empty, []Event{add(1, 1, 0, 1), read(0, 1, 2, 3)}, porcupine.Illegal},
		{"read beside an add sees it or not", empty, []Event{add(1, 1, 0, 10), read(0, 1, 2, 3), read(1, 2, 4, 5)}, porcupine.Ok},
		{"seen, then not", empty, []Event{add(1, 1, 0, 10), read(1, 2, 2, 3), read(0, 1, 4, 5)}, porcupine.Illegal},
		{"lost", empty, []Event{add(1, 1, 0, 1), add(2, 2, 2, 3), readList(4, 5, Message{2, 2})}, porcupine.Illegal},
		{"UID given twice", empty, []Event{add(1, 1, 0, 1), add(2, 1, 2, 3)}, porcupine.Illegal},
		{"UID of another", empty, []Event{add(1, 0, 0, 1), add(2, 0, 2, 3), readList(4, 5, Message{1, 2}, Message{2, 1})}, porcupine.Illegal},
		{"removed", one, []Event{{Change{Remove, 0, []int{7}}, Result{}, at(0), at(1)}, read(0, 2, 2, 3)}, porcupine.Ok},
		{"removed and back", one, []Event{{Change{Remove, 0, []int{7}}, Result{}, at(0), at(1)}, readList(2, 3, Message{1, 7})}, porcupine.Illegal},
		{"moved", one, []Event{
			{Change{Move, 0, []int{7}}, Result{UID: 1}, at(0), at(1)},
			{Change{Read, 1, nil}, Result{Count: 1, Next: 2, Whole: true, List: []Message{{1, 7}}}, at(2), at(3)},
			read(0, 2, 4, 5),
		}, porcupine.Ok},
		{"moved and still there", one, []Event{{Change{Move, 0, []int{7}}, Result{UID: 1}, at(0), at(1)}, read(1, 2, 2, 3)}, porcupine.Illegal},
		{"UIDNEXT goes back", one, []Event{{Change{Remove, 0, []int{7}}, Result{}, at(0), at(1)}, read(0, 1, 2, 3)}, porcupine.Illegal},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Check(tt.from, tt.events, 10*time.Second); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if tt.want == porcupine.Illegal && !strings.Contains(Shortest(tt.from, tt.events), "event ") {
				t.Error("the place is not told")
			}
		})
	}
}
