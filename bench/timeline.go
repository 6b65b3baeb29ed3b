package bench

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// A Moment is one second of a run as one group of users saw it. An operation
// counts in the second in which it ended. Latencies are in milliseconds and count
// only what was done.
type Moment struct {
	Second int     `json:"second"`          // 0 is the first
	Group  string  `json:"group,omitempty"` // label; empty: all users
	Done   int64   `json:"done"`
	Failed int64   `json:"failed"`
	P50    float64 `json:"p50_ms"`
	P99    float64 `json:"p99_ms"`
	Max    float64 `json:"max_ms"`
}

// A Gap is the longest time in which nothing was done, the times before the first
// and after the last operation included. How often there is something to do bounds
// what it can show.
type Gap struct {
	Seconds float64 `json:"seconds"`
	From    float64 `json:"from"` // seconds after the begin of the run
}

// Group is what one group of users saw of a run.
type Group struct {
	Label  string `json:"label"`
	Done   int64  `json:"done"`
	Failed int64  `json:"failed"`
	Gap    Gap    `json:"gap"`
}

// maxMoments bounds how much of a time line a Result holds.
const maxMoments = 1 << 20

// A timeline takes what operations report, second by second, for all users and
// for each group. Not for concurrent use.
type timeline struct {
	begin   time.Time
	of      []int32 // of each user the place of his group in spans, less one; nil: none has any
	spans   []span  // all users, then each group
	keep    bool    // moments are wanted
	second  int     // the one under way
	moments []Moment
	dropped bool // there were more than maxMoments
}

// A span is one group's part of a timeline.
type span struct {
	label        string
	done, failed int64
	last         time.Time // of its last success, at first the begin
	gap          time.Duration
	gapFrom      time.Time

	took []time.Duration // of what was done in the second under way
	not  int64           // failed in it
}

func newTimeline(cfg Config) *timeline {
	labels, of := newNames(cfg).labelled(cfg.Groups, cfg.Users)
	t := &timeline{of: of, spans: make([]span, 1+len(labels)), keep: cfg.Timeline != nil}
	for i, label := range labels {
		t.spans[i+1].label = label
	}
	return t
}

// start says when the run begins.
func (t *timeline) start(at time.Time) {
	t.begin = at
	for i := range t.spans {
		t.spans[i].last, t.spans[i].gapFrom = at, at
	}
}

func (t *timeline) add(op *operation, err error) {
	if t.begin.IsZero() {
		return // a trial without one
	}
	t.advance(op.ended)
	t.spans[0].add(op, err, t.keep)
	if t.of != nil && t.of[op.user] >= 0 {
		t.spans[t.of[op.user]+1].add(op, err, t.keep)
	}
}

func (s *span) add(op *operation, err error, keep bool) {
	if err != nil {
		s.failed++
		s.not++
		return
	}
	s.done++
	s.until(op.ended)
	if keep {
		s.took = append(s.took, op.ended.Sub(op.planned))
	}
}

// until notes that nothing was done between the last success and at. Operations
// end in another order than they are recorded in, if only a little.
func (s *span) until(at time.Time) {
	if gap := at.Sub(s.last); gap > s.gap {
		s.gap, s.gapFrom = gap, s.last
	}
	if at.After(s.last) {
		s.last = at
	}
}

// advance closes the seconds that are over.
func (t *timeline) advance(now time.Time) {
	for ; t.keep && t.begin.Add(time.Duration(t.second+1)*time.Second).Before(now); t.second++ {
		t.close()
	}
}

// close writes down the second under way.
func (t *timeline) close() {
	for i := range t.spans {
		s := &t.spans[i]
		slices.Sort(s.took)
		if m := s.moment(t.second); len(t.moments) < maxMoments {
			t.moments = append(t.moments, m)
		} else {
			t.dropped = true
		}
		s.took, s.not = s.took[:0], 0
	}
}

func (s *span) moment(second int) Moment {
	m := Moment{Second: second, Group: s.label, Done: int64(len(s.took)), Failed: s.not}
	if n := len(s.took); n > 0 {
		ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
		m.P50, m.P99, m.Max = ms(s.took[(n-1)/2]), ms(s.took[(n-1)*99/100]), ms(s.took[n-1])
	}
	return m
}

// finish ends the time line. What is left of a second is one, if there was
// anything in it.
func (t *timeline) finish(at time.Time) {
	t.advance(at)
	if all := &t.spans[0]; t.keep && (len(all.took) > 0 || all.not > 0) {
		t.close()
	}
	for i := range t.spans {
		t.spans[i].until(at)
	}
}

// groups returns what each group saw, and the longest gap of all users.
func (t *timeline) groups() (all Gap, list []Group) {
	gap := func(s *span) Gap { return Gap{s.gap.Seconds(), s.gapFrom.Sub(t.begin).Seconds()} }
	for i := range t.spans[1:] {
		s := &t.spans[i+1]
		list = append(list, Group{s.label, s.done, s.failed, gap(s)})
	}
	return gap(&t.spans[0]), list
}

// WriteMoments writes a time line for people, a line for each moment. Errors are
// those of w.
func WriteMoments(w io.Writer, list ...Moment) error {
	for _, m := range list {
		label := m.Group
		if label == "" {
			label = "all"
		}
		if _, err := fmt.Fprintf(w, "%6d  %-10s %7d %7d %9.2f %9.2f %9.2f\n", m.Second, label, m.Done, m.Failed, m.P50, m.P99, m.Max); err != nil {
			return err
		}
	}
	return nil
}

// MomentsHead is the line above those of WriteMoments.
const MomentsHead = "second  group         done  failed    p50 ms    p99 ms    max ms\n"
