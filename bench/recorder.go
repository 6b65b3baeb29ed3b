package bench

import (
	"errors"
	"slices"
	"sync"
	"time"
)

// A recorder takes what operations report. Safe for concurrent use.
type recorder struct {
	mu       sync.Mutex // guards the following fields
	latency  histogram
	accept   histogram // from the end of a message to its reply
	refused  histogram // until the server said no
	failed   int64
	classes  classes
	bytes    int64
	short    int64
	queued   int64
	overflow int64
	sent     *ledger   // nil: nothing is verified
	line     *timeline // nil: there is none
}

func newRecorder(sent *ledger, line *timeline) *recorder {
	return &recorder{classes: make(classes), sent: sent, line: line}
}

func (r *recorder) record(op *operation, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sent != nil {
		r.sent.mark(op)
	}
	if r.line != nil {
		r.line.add(op, err)
	}
	if err != nil {
		r.failed++
		r.classes.add(err, op.ended.Sub(op.planned))
		if f, ok := errors.AsType[*failure](err); ok && f.reply != "" {
			r.refused.add(op.ended.Sub(op.planned))
		}
		return
	}
	r.latency.add(op.ended.Sub(op.planned))
	if !op.handed.IsZero() {
		r.accept.add(op.ended.Sub(op.handed))
	}
	r.bytes += op.bytes
	if op.short {
		r.short++
	}
}

// waited counts an arrival that found all workers busy.
func (r *recorder) waited() {
	r.mu.Lock()
	r.queued++
	r.mu.Unlock()
}

// overflowed counts an arrival that was never started.
func (r *recorder) overflowed() {
	r.mu.Lock()
	r.overflow++
	r.mu.Unlock()
}

func (r *recorder) counts() (done, failed int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.latency.n, r.failed
}

// start begins the time line, if there is one.
func (r *recorder) start(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.line != nil {
		r.line.start(at)
	}
}

// moments returns the time line from number first on: the seconds that are over
// by now. There must be one.
func (r *recorder) moments(first int, now time.Time) []Moment {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.line.advance(now)
	return slices.Clone(r.line.moments[first:])
}

// finish ends the time line, if there is one.
func (r *recorder) finish(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.line != nil {
		r.line.finish(at)
	}
}
