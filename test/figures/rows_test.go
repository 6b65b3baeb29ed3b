package main

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestVerdicts(t *testing.T) {
	for _, tt := range []struct {
		f             figure
		goal, verdict string
	}{
		{figure{Value: 3}, "", ""},
		{figure{Value: 0.5, Goal: 0.5}, "≥ 0.5", "met"},
		{figure{Value: 0.4, Goal: 0.5}, "≥ 0.5", "missed"},
		{figure{Value: 48, Goal: 48, Most: true}, "≤ 48", "met"},
		{figure{Value: 47, Goal: 48, Most: true}, "≤ 48", "met"},
		{figure{Value: 49, Goal: 48, Most: true}, "≤ 48", "missed"},
	} {
		if goal, verdict := tt.f.goal(), tt.f.verdict(); goal != tt.goal || verdict != tt.verdict {
			t.Errorf("%+v: %q, %q; want %q, %q", tt.f, goal, verdict, tt.goal, tt.verdict)
		}
	}
}

func TestReportsArePrinted(t *testing.T) {
	f := []figure{{Name: "ratio", Value: 0.25, Unit: "×", Goal: 0.5, Note: "of this"}}
	list := []report{
		{Row: "large", Machine: "here", Seconds: 12, Figures: f},
		{Row: "idle", Machine: "here", Short: true, Figures: f},
	}
	var out strings.Builder
	if err := printReports(&out, list); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"here\n\nlarge (12 s)\n  ratio  0.25 ×  ≥ 0.5  missed  of this\n", "idle (0 s, short: the figures mean nothing)\n  ratio  0.25 ×  ≥ 0.5    of this\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	if strings.Count(out.String(), "here") != 1 {
		t.Errorf("the machine is there more than once:\n%s", out.String())
	}
}

// What a file has is not measured again, unless it alone is asked for or was only
// tried.
func TestRowsAreResumed(t *testing.T) {
	var ran []string
	make := func(name string) row {
		return row{name: name, run: func(context.Context, *lab) ([]figure, error) {
			ran = append(ran, name)
			if name == "broken" {
				return nil, errors.New("no disk")
			}
			return []figure{{Name: name}}, nil
		}}
	}
	list := []row{make("tried"), make("known"), make("broken"), make("new")}
	b := &build{options{json: filepath.Join(t.TempDir(), "f.json")}, t.TempDir(), "no binary"}
	old := []report{{Row: "tried", Short: true}, {Row: "known", Began: time.Unix(1, 0).UTC()}}
	if err := writeReports(b.json, old); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	err := b.measure(t.Context(), list, &out)
	if err == nil || !strings.Contains(err.Error(), "broken: no disk") {
		t.Errorf("error %v, want that of the broken row", err)
	}
	if got := strings.Join(ran, " "); got != "tried broken new" {
		t.Errorf("ran %q", got)
	}
	if !strings.Contains(out.String(), "known") {
		t.Errorf("what the file had is not printed:\n%s", out.String())
	}
	if err := b.measure(t.Context(), list[1:2], &out); err != nil || ran[len(ran)-1] != "known" {
		t.Errorf("asked for alone: %v, ran %q", err, ran)
	}
	got, err := readReports(b.json)
	if err != nil || len(got) != 3 || got[0].Short || got[1].Began.Unix() == 1 || got[2].Row != "new" {
		t.Errorf("the file has %+v, %v", got, err)
	}
}
