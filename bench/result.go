package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"time"
)

// A Result is what a run measured. Latencies are in milliseconds and count only
// what was done.
type Result struct {
	Protocol Protocol `json:"protocol"`
	Addr     string   `json:"address"`
	Conns    int      `json:"connections"`
	OpenRate float64  `json:"open_rate,omitzero"` // operations planned a second

	Seconds  float64        `json:"seconds"`
	Done     int64          `json:"done"`
	Failed   int64          `json:"failed"`
	Failures []FailureClass `json:"failures,omitempty"`
	Waited   int64          `json:"waited,omitzero"`          // open loop: began late, all workers being busy
	Overflow int64          `json:"overflow,omitzero"`        // open loop: never began
	Short    int64          `json:"short_mailboxes,omitzero"` // sessions that found fewer messages than they were to read
	Rate     float64        `json:"rate"`                     // done a second
	MiBRate  float64        `json:"mib_per_second"`           // of messages
	Latency  Latency        `json:"latency_ms"`
	Accept   Latency        `json:"accept_latency_ms,omitzero"`  // of SMTP and LMTP: from the end of DATA to its reply
	Refused  Latency        `json:"refused_latency_ms,omitzero"` // of what failed by the server's word: until that

	Began    time.Time `json:"began"`
	Gap      Gap       `json:"gap"`              // longest time in which nothing was done
	Groups   []Group   `json:"groups,omitempty"` // in the order of their labels
	Timeline []Moment  `json:"timeline,omitempty"`
	Cut      bool      `json:"timeline_cut,omitempty"` // it was longer than what is kept

	Server    *ServerUse `json:"server,omitempty"`
	Generator float64    `json:"generator_cpu_share,omitzero"` // of what GOMAXPROCS allows; 0: not known
	Ceiling   float64    `json:"ceiling,omitzero"`             // operations a second against a sink
	Limited   string     `json:"limited,omitempty"`            // why the generator was the limit
	Verify    *Verified  `json:"verify,omitempty"`
}

// FailureClass counts failures of one kind.
type FailureClass struct {
	What  string  `json:"what"`
	Count int64   `json:"count"`
	MaxMS float64 `json:"max_ms"`         // the longest that an operation took to fail so
	Hint  string  `json:"hint,omitempty"` // what to do about it
}

// Latency are quantiles in milliseconds.
type Latency struct {
	P50  float64 `json:"p50"`
	P95  float64 `json:"p95"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99.9"`
	Max  float64 `json:"max"`
}

// ServerUse is what the server process and its children used, per operation done.
type ServerUse struct {
	CPUMicros     float64 `json:"cpu_us_per_operation"`
	CPUs          float64 `json:"cpus"`                         // busy on average
	Written       float64 `json:"write_bytes_per_operation"`    // -1: /proc/PID/io may not be read
	Resident      int64   `json:"resident_bytes"`               // at the end
	ResidentPerOp float64 `json:"resident_bytes_per_operation"` // by how much it grew, per operation
}

// Err says why the run is no success: a message lost or doubled, or nothing done
// at all. Single failures are not an error: an overloaded server is measured too.
func (r *Result) Err() error {
	var errs []error
	if r.Done == 0 {
		err := errors.New("nothing was done")
		if len(r.Failures) > 0 {
			f := r.Failures[0]
			err = fmt.Errorf("nothing was done: %s", f.What)
			if f.Hint != "" {
				err = fmt.Errorf("%w: %s", err, f.Hint)
			}
		}
		errs = append(errs, err)
	}
	if r.Verify != nil {
		errs = append(errs, r.Verify.Err())
	}
	return errors.Join(errs...)
}

// A trial is one load on one server.
type trial struct {
	cfg   Config
	phase string
	rec   *recorder
	open  func(worker int) session
}

// measure puts the load on the server and fills in what came of it.
func (t *trial) measure(ctx context.Context, res *Result) error {
	cfg, rec := t.cfg, t.rec
	var server usage
	var err error
	if cfg.PID != 0 {
		if server, err = readUsage(procFS(), cfg.PID); err != nil {
			return err
		}
	}
	self := ownCPU()
	l := &load{
		conns: cfg.Conns, rate: cfg.Rate, duration: cfg.Duration, count: cfg.Count,
		users: newUsers(cfg), pace: cfg.Pace, open: t.open, rec: rec,
	}
	begin := time.Now()
	rec.start(begin)
	watch := startWatch(cfg, t.phase, rec.counts)
	told := startTelling(cfg, rec)
	l.run(ctx)
	elapsed := time.Since(begin)
	watch.stop()
	rec.finish(begin.Add(elapsed))
	told.stop() // tells the last second too

	res.Began = begin
	res.take(rec, elapsed)
	if self > 0 {
		res.Generator = float64(ownCPU()-self) / float64(elapsed) / float64(runtime.GOMAXPROCS(0))
	}
	if cfg.PID != 0 {
		after, err := readUsage(procFS(), cfg.PID)
		if err != nil {
			return fmt.Errorf("the server ended during the run: %w", err)
		}
		res.Server = serverUse(server, after, res.Done, elapsed)
	}
	res.Limited = limited(res)
	return nil
}

// ownCPU returns the CPU time of this process, 0 where it cannot be read.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// take fills in what the recorder holds.
func (r *Result) take(rec *recorder, elapsed time.Duration) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	h := &rec.latency
	r.Seconds = elapsed.Seconds()
	r.Done, r.Failed, r.Failures = h.n, rec.failed, rec.classes.list()
	r.Waited, r.Overflow, r.Short = rec.queued, rec.overflow, rec.short
	r.Rate = float64(h.n) / r.Seconds
	r.MiBRate = float64(rec.bytes) / r.Seconds / (1 << 20)
	r.Latency, r.Accept, r.Refused = h.latency(), rec.accept.latency(), rec.refused.latency()
	if t := rec.line; t != nil {
		r.Gap, r.Groups = t.groups()
		r.Timeline, r.Cut = t.moments, t.dropped
	}
}

func (h *histogram) latency() Latency {
	ms := func(q float64) float64 { return float64(h.quantile(q)) / float64(time.Millisecond) }
	return Latency{ms(0.5), ms(0.95), ms(0.99), ms(0.999), ms(1)}
}

func serverUse(before, after usage, done int64, elapsed time.Duration) *ServerUse {
	n := float64(max(done, 1))
	cpu := after.cpu - before.cpu
	use := &ServerUse{
		CPUMicros: float64(cpu.Microseconds()) / n,
		CPUs:      float64(cpu) / float64(elapsed),
		Written:   -1,
		Resident:  after.resident, ResidentPerOp: float64(after.resident-before.resident) / n,
	}
	if before.written >= 0 && after.written >= 0 {
		use.Written = float64(after.written-before.written) / n
	}
	return use
}

// A run is the generator's, not the server's, from these shares on.
const (
	ceilingShare = 0.8
	cpuShare     = 0.9
)

// limited says why the generator was the limit, empty if it was not.
func limited(r *Result) string {
	switch {
	case r.Ceiling > 0 && r.Rate > ceilingShare*r.Ceiling:
		return fmt.Sprintf("the rate is over %.0f %% of what the generator reaches against a sink", ceilingShare*100)
	case r.Generator > cpuShare:
		return fmt.Sprintf("the generator used %.0f %% of the CPU time it may have", r.Generator*100)
	}
	return ""
}
