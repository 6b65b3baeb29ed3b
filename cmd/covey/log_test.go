package main

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// writes notes what was written, one string for each call.
type writes struct {
	mu   sync.Mutex
	list []string
}

func (w *writes) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, string(p))
	return len(p), nil
}

func (w *writes) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.list)
}

func TestLogLinesShareAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w writes
		log, end := logger(&w, false)
		defer end()
		for i := range 3 {
			log.With("component", "x").Info("line", "n", i)
		}
		log.Debug("not asked for")
		if n := w.count(); n != 0 {
			t.Errorf("%d writes before the delay is over", n)
		}
		<-time.After(logDelay) // by the bubble's clock
		synctest.Wait()
		if n := w.count(); n != 1 || strings.Count(w.list[0], "component=x") != 3 || strings.Contains(w.list[0], "asked") {
			t.Errorf("writes %q, want one of three lines", w.list)
		}
		log.Info("one more")
		<-time.After(logDelay)
		synctest.Wait()
		if n := w.count(); n != 2 {
			t.Errorf("%d writes, want a second one", n)
		}
	})
}

func TestWarningsAreWrittenAtOnce(t *testing.T) {
	var w writes
	log, end := logger(&w, false)
	defer end()
	log.Info("before")
	log.WithGroup("g").Warn("trouble")
	if n := w.count(); n != 1 || !strings.Contains(w.list[0], "before") || !strings.Contains(w.list[0], "trouble") {
		t.Errorf("writes %q, want one of both lines", w.list)
	}
}

func TestLogIsBounded(t *testing.T) {
	var w writes
	log, end := logger(&w, false)
	for i := 0; w.count() == 0; i++ {
		log.Info(strings.Repeat("x", 1000))
		if i > logBuffer/1000 {
			t.Fatalf("nothing was written of %d lines", i)
		}
	}
	before := w.count()
	log.Info("the last")
	end()
	log.Info("after the end")
	if n := w.count(); n != before+2 || !strings.Contains(fmt.Sprint(w.list), "after the end") {
		t.Errorf("%d writes, want one at the end and one behind it", n-before)
	}
}
