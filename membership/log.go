package membership

import (
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"
)

// A logbook logs what may be said again and again, by whoever sends us packets,
// at most once in a while for each kind of it. memberlist writes to it.
type logbook struct {
	out     *slog.Logger
	metrics *Metrics

	mu     sync.Mutex // guards the following
	kinds  map[string]*repeated
	closed bool
}

type repeated struct {
	last    time.Time
	skipped int
}

const (
	logEvery = time.Minute
	maxKinds = 64
	maxLine  = 300 // octets of foreign text
)

func newLogbook(out *slog.Logger, m *Metrics) *logbook {
	return &logbook{out: out, metrics: m, kinds: map[string]*repeated{}}
}

// refuse counts and logs something that came and was not taken.
func (l *logbook) refuse(reason, kind, text string) {
	l.metrics.refused.WithLabelValues(reason).Inc()
	l.say(kind, text)
}

// refuseFrom is refuse for the network.
func (l *logbook) refuseFrom(reason string, from net.Addr) {
	l.refuse(reason, "network "+reason, "gossip refused, "+reason+", from "+from.String())
}

// say logs a warning, unless one of its kind was logged lately.
func (l *logbook) say(kind, text string) {
	now := time.Now()
	l.mu.Lock()
	r := l.kinds[kind]
	if r == nil && len(l.kinds) >= maxKinds {
		kind = "others"
		r = l.kinds[kind]
	}
	if r == nil {
		r = &repeated{last: now.Add(-logEvery)}
		l.kinds[kind] = r
	}
	if l.closed || now.Sub(r.last) < logEvery {
		r.skipped++
		l.mu.Unlock()
		return
	}
	skipped := r.skipped
	r.last, r.skipped = now, 0
	l.mu.Unlock()
	l.out.Warn("gossip", "what", cut(text), "more_of_it", skipped)
}

// close ends it: memberlist's last goroutine may have something to say for a
// while after it has been shut down.
func (l *logbook) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
}

func cut(s string) string {
	if len(s) > maxLine {
		return s[:maxLine] + "…"
	}
	return s
}

// complaints are beginnings of memberlist's lines, and what they mean. An empty
// reason: not worth more than Debug, since we log and count it ourselves or it is
// what happens when nodes come and go.
var complaints = []struct{ text, reason string }{
	{"failed to receive and remove the stream label header", ""},
	{"discarding", refusedLabel},
	{"Decrypt packet failed", refusedDecrypt},
	{"failed to receive:", refusedDecrypt},
	{"Conflicting address", refusedConflict},
	{"ignoring alive message", refusedMember},
	{"Ignoring an alive message", refusedMember},
	{"Failed fallback TCP ping", ""},
	{"Push/Pull with", ""},
	{"Failed to send", ""},
	{"Refuting", ""},
	{"Got ping for unexpected node", ""},
}

// Write takes one line of memberlist's. It implements io.Writer.
func (l *logbook) Write(line []byte) (int, error) {
	text := strings.TrimSuffix(string(line), "\n")
	level, text, _ := strings.Cut(strings.TrimPrefix(text, "["), "] ")
	text = strings.TrimPrefix(text, "memberlist: ")
	reason := ""
	if level != "DEBUG" && level != "INFO" {
		reason = refusedOtherwise
		for _, c := range complaints {
			if strings.HasPrefix(text, c.text) {
				reason = c.reason
				break
			}
		}
	}
	switch {
	case reason != "":
		l.refuse(reason, "memberlist "+firstWords(text), text)
	case !strings.Contains(text, "from=pipe"): // the observer's
		l.mu.Lock()
		closed := l.closed
		l.mu.Unlock()
		if !closed {
			l.out.Debug("memberlist", "says", cut(text))
		}
	}
	return len(line), nil
}

// firstWords returns what tells memberlist's lines apart: the words before the
// first name or number.
func firstWords(s string) string {
	words := strings.Fields(s)
	return strings.Join(words[:min(len(words), 3)], " ")
}
