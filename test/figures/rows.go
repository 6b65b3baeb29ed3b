package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"
)

// A row is one promise of docs/performance.md and what measures it.
type row struct {
	name string
	what string // one line, for help
	run  func(ctx context.Context, l *lab) ([]figure, error)
}

// rows are all rows of one node but those of peers, in the order of docs/performance.md.
func rows() []row {
	return []row{
		largeRow, writtenRow, idleRow, latencyRow,
		startRow, // before store, which adds to what they share
		accountsRow, storeRow, mailboxRow, dayRow, neighbourRow,
	}
}

// clusterRows are those of several nodes.
func clusterRows() []row {
	return []row{killRow, restartRow, aloneRow, rateRow, gossipRow, deathsRow, remoteRow, coldRow}
}

// errNeedsRoot is why a row was left out. That is no failure.
var errNeedsRoot = errors.New("needs root, for network namespaces")

// A figure is one measured value beside its goal.
type figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`           // "", "s", "MiB", "B", "KiB", "/s", "×"
	Goal  float64 `json:"goal,omitempty"` // 0: none, it is there to read the others by
	Most  bool    `json:"most,omitempty"` // Goal is the most allowed, else the least
	Note  string  `json:"note,omitempty"`
}

// goal is the goal for people, empty if there is none.
func (f *figure) goal() string {
	switch {
	case f.Goal == 0:
		return ""
	case f.Most:
		return fmt.Sprintf("≤ %g", f.Goal)
	}
	return fmt.Sprintf("≥ %g", f.Goal)
}

// verdict says whether the goal is met.
func (f *figure) verdict() string {
	switch {
	case f.Goal == 0:
		return ""
	case f.Most == (f.Value <= f.Goal) || f.Value == f.Goal:
		return "met"
	}
	return "missed"
}

// number writes v with three digits, or all before the point.
func number(v float64) string {
	switch {
	case v >= 100 || v <= -100 || v == 0:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10 || v <= -10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// A report is what one row measured, and where.
type report struct {
	Row     string    `json:"row"`
	Short   bool      `json:"short,omitempty"` // it means nothing
	Machine string    `json:"machine"`
	Began   time.Time `json:"began"`
	Seconds float64   `json:"seconds"`
	Figures []figure  `json:"figures"`
}

// measure measures rows of this tree and prints them.
func measure(ctx context.Context, o options, list []row, w io.Writer) (err error) {
	b, err := newBuild(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.remove()) }()
	return b.measure(ctx, list, w)
}

// measure measures the rows that are not in the file yet, or one asked for by
// itself in any case, and prints all. A row that cannot be measured does not keep
// the others from it.
func (b *build) measure(ctx context.Context, list []row, w io.Writer) error {
	done, err := readReports(b.json)
	if err != nil {
		return err
	}
	var failed []error
	for _, r := range list {
		have := slices.IndexFunc(done, func(old report) bool { return old.Row == r.name })
		if have >= 0 && len(list) > 1 && done[have].Short == b.short {
			fmt.Fprintf(os.Stderr, "%s: %s has it\n", r.name, b.json)
			continue
		}
		rep, err := b.one(ctx, r)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, errNeedsRoot) {
			fmt.Fprintf(os.Stderr, "%s: left out: %v\n", r.name, err)
			continue
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", r.name, err)
			failed = append(failed, fmt.Errorf("%s: %w", r.name, err))
			continue
		}
		if have >= 0 {
			done[have] = rep
		} else {
			done = append(done, rep)
		}
		if err := writeReports(b.json, done); err != nil {
			return err
		}
	}
	done = slices.DeleteFunc(done, func(rep report) bool {
		return !slices.ContainsFunc(list, func(r row) bool { return r.name == rep.Row })
	})
	return errors.Join(append([]error{printReports(w, done)}, failed...)...)
}

// printReports prints the figures, under the machine that they are from.
func printReports(w io.Writer, list []report) error {
	machine := ""
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, rep := range list {
		if rep.Machine != machine {
			machine = rep.Machine
			fmt.Fprintf(t, "%s\n", machine)
		}
		about := ""
		if rep.Short {
			about = ", short: the figures mean nothing"
		}
		fmt.Fprintf(t, "\n%s (%.0f s%s)\n", rep.Row, rep.Seconds, about)
		for _, f := range rep.Figures {
			verdict := f.verdict()
			if rep.Short {
				verdict = ""
			}
			fmt.Fprintf(t, "  %s\t%s %s\t%s\t%s\t%s\n", f.Name, number(f.Value), f.Unit, f.goal(), verdict, f.Note)
		}
	}
	return t.Flush()
}

func readReports(name string) ([]report, error) {
	if name == "" {
		return nil, nil
	}
	text, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []report
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("%s has no figures of ours: %w", name, err)
	}
	return list, nil
}

func writeReports(name string, list []report) error {
	if name == "" {
		return nil
	}
	text, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(text, '\n'), 0o644)
}
