package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// sums are what a run, or several with one state file, came to.
type sums struct {
	Seed         uint64
	Rounds       int
	Seconds      float64
	Acknowledged int            // deliveries and appends, each recipient for itself
	Changes      int            // acknowledged flags, moves and removals of a message
	Histories    int            // tried for linearizability
	Undecided    int            // of them, for want of time
	Violations   map[string]int // by kind
	Faults       map[string]*faultSums
	Skipped      map[string]string // faults this machine cannot do, and why
}

// faultSums are about one kind of fault.
type faultSums struct {
	Times int
	Gaps  []float64 // seconds without an acknowledged delivery, of each shard and round
	Back  []float64 // seconds from the end of a fault until every node and shard served
}

func (s *sums) violate(kind string) {
	if s.Violations == nil {
		s.Violations = make(map[string]int)
	}
	s.Violations[kind]++
}

func (s *sums) fault(name string) *faultSums {
	if s.Faults == nil {
		s.Faults = make(map[string]*faultSums)
	}
	if s.Faults[name] == nil {
		s.Faults[name] = new(faultSums)
	}
	return s.Faults[name]
}

// load reads the sums of a run that was interrupted; none is a new one.
func (s *sums) load(name string) error {
	b, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, s); err != nil {
		return fmt.Errorf("state %s: %w", name, err)
	}
	return nil
}

// save writes the sums where load finds them.
func (s *sums) save(name string) error {
	b, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return err
	}
	next := filepath.Join(filepath.Dir(name), "."+filepath.Base(name))
	if err := os.WriteFile(next, append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(next, name)
}

// bad is how many promises were broken.
func (s *sums) bad() (n int) {
	for _, v := range s.Violations {
		n += v
	}
	return n
}

// table writes the sums as docs/reliability.md has them.
func (s *sums) table(w io.Writer) {
	fmt.Fprintf(w, "\nseed %d, %d rounds, %v\n\n", s.Seed, s.Rounds, (time.Duration(s.Seconds) * time.Second).Round(time.Second))
	fmt.Fprintf(w, "| fault | times | longest time without an acknowledgement, per shard: p50 | p99 | max | serving again: p50 | max |\n|---|---|---|---|---|---|---|\n")
	var gaps, back []float64
	for _, f := range append(slices.Clone(faults), poisoned) {
		x := s.Faults[f.name]
		if x == nil {
			continue
		}
		gaps, back = append(gaps, x.Gaps...), append(back, x.Back...)
		fmt.Fprintf(w, "| %s %s | %d | %s | %s |\n", f.name, f.what, x.Times, seconds(x.Gaps, 0.5, 0.99, 1), seconds(x.Back, 0.5, 1))
	}
	fmt.Fprintf(w, "| all | %d | %s | %s |\n\n", s.Rounds, seconds(gaps, 0.5, 0.99, 1), seconds(back, 0.5, 1))
	fmt.Fprintf(w, "| acknowledged deliveries | other changes | lost | duplicated | resurrected | changed bytes | UID | flags | untruthful | histories (undecided) | not linear |\n")
	fmt.Fprintf(w, "|---|---|---|---|---|---|---|---|---|---|---|\n| %d | %d ", s.Acknowledged, s.Changes)
	for _, kind := range []string{lost, duplicated, resurrected, corrupted, uidViolation, flagLost, untruthful} {
		fmt.Fprintf(w, "| %d ", s.Violations[kind])
	}
	fmt.Fprintf(w, "| %d (%d) | %d |\n", s.Histories, s.Undecided, s.Violations[stale])
	for _, kind := range []string{bounced, divergent, crashed, unrecovered, brokenSession} {
		if n := s.Violations[kind]; n > 0 {
			fmt.Fprintf(w, "%s: %d\n", kind, n)
		}
	}
	for _, f := range faults {
		if why := s.Skipped[f.name]; why != "" {
			fmt.Fprintf(w, "%s %s: skipped: %s\n", f.name, f.what, why)
		}
	}
}

// seconds writes quantiles for a table's cells.
func seconds(list []float64, at ...float64) string {
	list = slices.Sorted(slices.Values(list))
	cells := make([]string, len(at))
	for i, q := range at {
		cells[i] = "–"
		if n := len(list); n > 0 {
			cells[i] = fmt.Sprintf("%.1f s", list[min(int(q*float64(n)), n-1)])
		}
	}
	return strings.Join(cells, " | ")
}
