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
