package logon

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/recent"
)

// limits counts failures. A try under way counts as if it had failed already, so
// that many at once cannot guess more often than one after the other; they wait
// for each other instead.
type limits struct {
	perAddr int
	perDay  int

	mu       sync.Mutex // guards everything below, and all windows
	addrs    *recent.Map[netip.Prefix, *window]
	accounts *recent.Map[string, *window] // failures of strangers
	known    *recent.Map[pair, *window]   // who logged in where; failures since
}

// A pair is an address and the account it tries.
type pair struct {
	from netip.Prefix
	user string
}

// A window holds the failures of one thing within its span.
type window struct {
	span     time.Duration
	most     int
	failures []time.Time // ascending; at most most
	pending  int
	done     chan struct{} // closed when a pending try ends; nil if none waits for that
	told     time.Time     // of a known pair: when a node last told the others of it
}

// tellAgain is after how long a node tells the others once more that a pair is
// known: one of them may have started since.
const tellAgain = 10 * time.Minute

// knownWindow is that of a pair which became known now.
func (l *limits) knownWindow() window { return window{span: time.Minute, most: l.perAddr} }

// A try is one log-in under way. The windows it counts in are those of its
// address and, for a stranger, of the account, or for who is known, of the pair.
type try struct {
	pair    pair
	windows []*window
	blocks  []*window // those among windows that can refuse it
}

func newLimits(perAddr, perDay, entries int) *limits {
	return &limits{
		perAddr: perAddr, perDay: perDay,
		addrs:    recent.New[netip.Prefix, *window](entries),
		accounts: recent.New[string, *window](entries),
		known:    recent.New[pair, *window](entries),
	}
}

// origin is what failures are counted under: an IPv4 address, or the /64 that a
// site or a phone has.
func origin(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // no address: all such share one window
	}
	return p
}

// begin admits a try, once fewer are under way than may still fail. Limit if too
// many did; Unavailable if ctx ends first. fail, succeed or cancel must follow.
func (l *limits) begin(ctx context.Context, from netip.Addr, user string, now func() time.Time) (*try, error) {
	for {
		t, wait, err := l.admit(pair{origin(from), user}, now())
		if t != nil || err != nil {
			return t, err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, covey.Errorf(covey.Unavailable, "wait to log in: %w", ctx.Err())
		}
	}
}

// admit returns a try, or what to wait for, or Limit.
func (l *limits) admit(p pair, now time.Time) (*try, <-chan struct{}, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.open(p)
	for _, w := range t.blocks {
		if w.full(now) {
			return nil, nil, covey.Errorf(covey.Limit, "too many failed log-ins")
		}
	}
	for _, w := range t.blocks {
		if len(w.failures)+w.pending >= w.most {
			if w.done == nil {
				w.done = make(chan struct{})
			}
			return nil, w.done, nil
		}
	}
	for _, w := range t.windows {
		w.pending++
	}
	return t, nil, nil
}

// open finds or makes the windows that a try counts in.
func (l *limits) open(p pair) *try {
	addr := load(l.addrs, p.from, window{span: time.Minute, most: l.perAddr})
	if w, ok := l.known.Load(p); ok {
		return &try{pair: p, windows: []*window{addr, w}, blocks: []*window{w}}
	}
	account := load(l.accounts, p.user, window{span: 24 * time.Hour, most: l.perDay})
	both := []*window{addr, account}
	return &try{pair: p, windows: both, blocks: both}
}

func load[K comparable](m *recent.Map[K, *window], k K, fresh window) *window {
	w, ok := m.Load(k)
	if !ok {
		w = &fresh
		m.Store(k, w)
	}
	return w
}

// full forgets failures that are long enough ago, and reports whether there are as
// many as there may be.
func (w *window) full(now time.Time) bool {
	old := 0
	for old < len(w.failures) && now.Sub(w.failures[old]) >= w.span {
		old++
	}
	w.failures = append(w.failures[:0], w.failures[old:]...)
	return len(w.failures) >= w.most
}

// end takes back what admit counted, and wakes who waits.
func (t *try) end() {
	for _, w := range t.windows {
		w.pending--
		if w.done != nil {
			close(w.done)
			w.done = nil
		}
	}
}

// fail counts a failure and returns how many the address has within the minute.
func (l *limits) fail(t *try, now time.Time) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	t.end()
	t.count(now)
	return len(t.windows[0].failures)
}

// count counts a failure in all windows of a try that have room for one.
func (t *try) count(now time.Time) {
	for _, w := range t.windows {
		if !w.full(now) {
			w.failures = append(w.failures, now)
		}
	}
}

// succeed ends a try that was right: its address is known to the account from now
// on. It reports whether that is worth telling.
func (l *limits) succeed(t *try, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	t.end()
	w := load(l.known, t.pair, l.knownWindow())
	if !w.told.IsZero() && now.Sub(w.told) < tellAgain {
		return false
	}
	w.told = now
	return true
}

// cancel ends a try that nobody could judge.
func (l *limits) cancel(t *try) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t.end()
}
