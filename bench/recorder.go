package bench

import "sync"

// A recorder takes what operations report. Safe for concurrent use.
type recorder struct {
	mu       sync.Mutex // guards the following fields
	latency  histogram
	accept   histogram // from the end of a message to its reply
	failed   int64
	classes  classes
	bytes    int64
	short    int64
	queued   int64
	overflow int64
	sent     *ledger // nil: nothing is verified
}

func newRecorder(sent *ledger) *recorder {
	return &recorder{classes: make(classes), sent: sent}
}

func (r *recorder) record(op *operation, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sent != nil {
		r.sent.mark(op)
	}
	if err != nil {
		r.failed++
		r.classes.add(err)
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
