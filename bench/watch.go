package bench

import (
	"sync"
	"time"
)

// A watch tells cfg.Progress how a phase goes, until it is stopped.
type watch struct {
	end  chan struct{}
	done sync.WaitGroup
}

func startWatch(cfg Config, phase string, counts func() (done, failed int64)) *watch {
	w := &watch{end: make(chan struct{})}
	w.done.Go(func() { w.run(cfg, phase, counts) })
	return w
}

func (w *watch) run(cfg Config, phase string, counts func() (done, failed int64)) {
	begin := time.Now()
	ticker := time.NewTicker(cfg.ProgressEvery)
	defer ticker.Stop()
	last, before := begin, int64(0)
	whole := cfg.Duration
	if phase == "verify" {
		whole = 0
	}
	for {
		select {
		case <-w.end:
			return
		case now := <-ticker.C:
			done, failed := counts()
			rate := float64(done-before) / now.Sub(last).Seconds()
			cfg.Progress(Progress{phase, now.Sub(begin), whole, done, failed, rate})
			last, before = now, done
		}
	}
}

// stop waits for a call of cfg.Progress that is under way.
func (w *watch) stop() {
	close(w.end)
	w.done.Wait()
}

// A telling tells cfg.Timeline each second of a run, until it is stopped.
type telling struct {
	rec  *recorder
	tell func(Moment)
	told int
	end  chan struct{}
	done sync.WaitGroup
}

// startTelling does nothing if nobody wants to be told.
func startTelling(cfg Config, rec *recorder) *telling {
	t := &telling{rec: rec, tell: cfg.Timeline, end: make(chan struct{})}
	if t.tell != nil {
		t.done.Go(t.run)
	}
	return t
}

func (t *telling) run() {
	ticker := time.NewTicker(time.Second / 4)
	defer ticker.Stop()
	for {
		select {
		case <-t.end:
			t.rest(time.Time{})
			return
		case now := <-ticker.C:
			t.rest(now)
		}
	}
}

// rest tells what has not been told yet. Operations that end now are late by less
// than the margin.
func (t *telling) rest(now time.Time) {
	const margin = 20 * time.Millisecond
	for _, m := range t.rec.moments(t.told, now.Add(-margin)) {
		t.tell(m)
		t.told++
	}
}

// stop tells what there is after the end of the time line, and waits for that.
func (t *telling) stop() {
	close(t.end)
	t.done.Wait()
}
