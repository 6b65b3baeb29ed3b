package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/covey-mail/covey/internal/mutant"
	"github.com/covey-mail/covey/test/process"
)

// teachers are the faults that mutants go through unless others are named: those
// that can break a promise, not those that only make things slow.
const teachers = "F-02,F-03,F-06,F-07,F-09,F-10,F-11,F-12,F-20,F-21,F-25,F-26,F-39,F-40"

// mutantLimit is how long a planted bug may stay unseen.
const mutantLimit = 10 * time.Minute

// mutants runs a program with each planted bug, or those that are named, until a
// promise is broken, and writes how long that took. The bug chooses no fault: all go
// through the same schedule, from the seed.
func mutants(ctx context.Context, o options, names []string) error {
	dir, err := os.MkdirTemp("", "covey-mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if o.only == "" {
		o.only = teachers
	}
	var rows []string
	missed := 0
	for _, bug := range mutant.All() {
		if len(names) > 0 && !slices.Contains(names, string(bug)) {
			continue
		}
		fmt.Printf("\nplanted: %s\n", bug)
		bin, err := process.BuildMutant(dir, bug)
		if err != nil {
			return err
		}
		row, caught, err := hunt(ctx, o, bug, bin)
		if err != nil {
			return err
		}
		if !caught {
			missed++
		}
		fmt.Println(row)
		rows = append(rows, row)
	}
	fmt.Printf("\n| planted bug | caught after | by | first words |\n|---|---|---|---|\n%s\n", strings.Join(rows, "\n"))
	if missed > 0 {
		return fmt.Errorf("%d planted bugs were not caught in %v", missed, mutantLimit)
	}
	return nil
}

var (
	violationLine = regexp.MustCompile(`(?m)^  VIOLATION ([a-z ]+): (.*)$`)
	roundLine     = regexp.MustCompile(`(?m)^round \d+, (F-\d+)`)
)

// hunt runs this program on a binary with a bug. A cluster that does not even
// start is caught too: it would not get far in any test.
func hunt(ctx context.Context, o options, bug mutant.Bug, bin string) (row string, caught bool, err error) {
	dir := filepath.Join(filepath.Dir(bin), string(bug))
	args := []string{
		"-until-bad", "-for", mutantLimit.String(), "-seed", fmt.Sprint(o.seed), "-hold", o.hold.String(),
		"-dir", dir, "-bin", bin, "-only", o.only,
	}
	ctx, cancel := context.WithTimeout(ctx, mutantLimit+5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	began := time.Now()
	var out strings.Builder
	cmd.Stdout = io.MultiWriter(os.Stdout, &out)
	cmd.Stderr = cmd.Stdout
	err = cmd.Run()
	took := time.Since(began).Round(time.Second)
	if err := os.RemoveAll(dir); err != nil {
		return "", false, err
	}
	if err == nil {
		return fmt.Sprintf("| %s | not in %v | – | – |", bug, took), false, nil
	}
	if ctx.Err() != nil {
		return "", false, ctx.Err()
	}
	by, words := "the start", lastLine(out.String())
	if all := roundLine.FindAllStringSubmatch(out.String(), -1); len(all) > 0 {
		by = all[len(all)-1][1]
	}
	if m := violationLine.FindStringSubmatch(out.String()); m != nil {
		words = m[1] + ": " + m[2]
	}
	words = strings.ReplaceAll(words[:min(len(words), 120)], "|", "/")
	return fmt.Sprintf("| %s | %v | %s | %s |", bug, took, by, words), true, nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}
