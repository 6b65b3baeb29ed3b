package mailbox

import "sync"

// hub tells views that their mailbox changed. A wake-up carries no content: the
// view reads what changed by itself, so nothing can queue up.
type hub struct {
	mu   *sync.Mutex // guards subs and the maps in it
	subs map[place]map[chan struct{}]struct{}
}

func newHub() hub {
	return hub{mu: new(sync.Mutex), subs: make(map[place]map[chan struct{}]struct{})}
}

// subscribe returns a channel that holds a token whenever p has changed since
// the last receive.
func (h hub) subscribe(p place) chan struct{} {
	ch := make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	set := h.subs[p]
	if set == nil {
		set = make(map[chan struct{}]struct{})
		h.subs[p] = set
	}
	set[ch] = struct{}{}
	return ch
}

func (h hub) unsubscribe(p place, ch chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.subs[p], ch)
	if len(h.subs[p]) == 0 {
		delete(h.subs, p)
	}
}

func (h hub) wake(p place) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for ch := range h.subs[p] {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}
