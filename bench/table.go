package bench

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// WriteTable writes the result for people. Errors are those of w.
func (r *Result) WriteTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	loop := fmt.Sprintf("closed loop, %d connections", r.Conns)
	if r.OpenRate > 0 {
		loop = fmt.Sprintf("open loop, %g/s planned, at most %d connections", r.OpenRate, r.Conns)
	}
	row := func(name, format string, args ...any) { fmt.Fprintf(t, name+"\t"+format+"\n", args...) }
	row("server", "%s %s", r.Protocol, r.Addr)
	row("load", "%s, %.1f s", loop, r.Seconds)
	row("done", "%d", r.Done)
	row("failed", "%d", r.Failed)
	for _, f := range r.Failures {
		row("", "%d × %s, after at most %.0f ms", f.Count, f.What, f.MaxMS)
		if f.Hint != "" {
			row("", "    %s", f.Hint)
		}
	}
	r.caveats(row)
	row("rate", "%.1f/s, %.2f MiB/s", r.Rate, r.MiBRate)
	quantiles := func(name string, l Latency) {
		row(name, "p50 %.2f  p95 %.2f  p99 %.2f  p99.9 %.2f  max %.2f", l.P50, l.P95, l.P99, l.P999, l.Max)
	}
	quantiles("latency ms", r.Latency)
	if r.Accept != (Latency{}) {
		quantiles("end of DATA to reply", r.Accept)
	}
	if r.Refused != (Latency{}) {
		quantiles("refused after ms", r.Refused)
	}
	r.gaps(row)
	r.costs(row)
	if v := r.Verify; v != nil {
		row("verified", "%d acknowledged: %d lost, %d doubled, %d misplaced; %d found in all, %d of them unconfirmed, %d refused",
			v.Acknowledged, v.Lost, v.Doubled, v.Misplaced, v.Found, v.Unconfirmed, v.Refused)
		if v.Unread > 0 {
			row("", "%d mailboxes could not be read: %s", v.Unread, v.Why)
		}
	}
	return t.Flush()
}

// caveats says what makes the figures mean less than they seem to.
func (r *Result) caveats(row func(name, format string, args ...any)) {
	if r.Waited > 0 {
		row("waited", "%d operations for a free connection: their latency includes it", r.Waited)
	}
	if r.Overflow > 0 {
		row("overflow", "%d operations never began: the server cannot keep up with this rate", r.Overflow)
	}
	if r.Short > 0 {
		row("short", "%d sessions found fewer messages than they were to read: fill the mailboxes with covey bench smtp first", r.Short)
	}
}

// gaps says how long nothing was done, for each group if there are some.
func (r *Result) gaps(row func(name, format string, args ...any)) {
	longest := func(g Gap) string { return fmt.Sprintf("%.2f s, from %.2f s", g.Seconds, g.From) }
	row("longest gap", "%s", longest(r.Gap))
	for _, g := range r.Groups {
		row("  "+g.Label, "%s; %d done, %d failed", longest(g.Gap), g.Done, g.Failed)
	}
}

func (r *Result) costs(row func(name, format string, args ...any)) {
	if s := r.Server; s != nil {
		row("server CPU", "%.1f µs an operation, %.2f CPUs busy", s.CPUMicros, s.CPUs)
		if s.Written >= 0 {
			row("server disk", "%.0f bytes written an operation", s.Written)
		} else {
			row("server disk", "not known: /proc/PID/io can be read by root and the server's own user")
		}
		row("server memory", "%.1f MiB resident, grown by %.0f bytes an operation", float64(s.Resident)/(1<<20), s.ResidentPerOp)
	}
	if r.Ceiling > 0 {
		row("ceiling", "%.1f/s against a discarding sink in the generator's own process", r.Ceiling)
	}
	if r.Generator > 0 {
		row("generator", "used %.0f %% of the CPU time it may have", r.Generator*100)
	}
	if r.Limited != "" {
		row("LIMITED", "the generator was the limit: %s", r.Limited)
	}
}
