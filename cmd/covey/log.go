package main

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"
)

// Log lines are written some at a time: a system call for each would be a fortieth
// of what a message costs. What says that something is wrong is written at once,
// with all before it.
const (
	logDelay  = 50 * time.Millisecond // at most, from a line to its write
	logBuffer = 64 << 10              // bytes that wait at most
)

// A logWriter gathers lines for w. Its methods may be called by several goroutines.
type logWriter struct {
	w io.Writer

	mu     sync.Mutex // guards what follows, and w
	buf    []byte
	timer  *time.Timer // flushes; running if there is anything in buf
	closed bool        // nothing waits any more: each line is written at once
}

func newLogWriter(w io.Writer) *logWriter {
	l := &logWriter{w: w}
	l.mu.Lock() // flush may be called before there is a timer, where processors are scarce
	defer l.mu.Unlock()
	l.timer = time.AfterFunc(logDelay, l.flush)
	l.timer.Stop()
	return l
}

// Write implements io.Writer. There is nobody to tell of a failed write.
func (l *logWriter) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.buf) == 0 {
		l.timer.Reset(logDelay)
	}
	l.buf = append(l.buf, line...)
	if l.closed || len(l.buf) >= logBuffer {
		l.flushLocked()
	}
	return len(line), nil
}

func (l *logWriter) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flushLocked()
}

func (l *logWriter) flushLocked() {
	l.timer.Stop()
	if len(l.buf) > 0 {
		_, _ = l.w.Write(l.buf)
		l.buf = l.buf[:0]
	}
}

// close writes what waits. Later lines are written as they come.
func (l *logWriter) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.flushLocked()
}

// A promptHandler writes through to the end what is a warning or worse.
type promptHandler struct {
	slog.Handler
	out *logWriter
}

// Handle implements slog.Handler.
func (h promptHandler) Handle(ctx context.Context, r slog.Record) error {
	err := h.Handler.Handle(ctx, r)
	if r.Level >= slog.LevelWarn {
		h.out.flush()
	}
	return err
}

// WithAttrs implements slog.Handler.
func (h promptHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return promptHandler{h.Handler.WithAttrs(attrs), h.out}
}

// WithGroup implements slog.Handler.
func (h promptHandler) WithGroup(name string) slog.Handler {
	return promptHandler{h.Handler.WithGroup(name), h.out}
}

// logger writes to w. Whoever ends the program calls close before.
func logger(w io.Writer, debug bool) (log *slog.Logger, close func()) {
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
	}
	out := newLogWriter(w)
	return slog.New(promptHandler{slog.NewTextHandler(out, &slog.HandlerOptions{Level: level}), out}), out.close
}
