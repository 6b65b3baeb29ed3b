package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/covey-mail/covey/bench"
)

func TestChart(t *testing.T) {
	b := filled(map[string][]float64{"covey": {90, 100, 110}, "smtp-sink": {200, 200, 200}})
	b.entries = append(b.entries,
		entry{"LMTP", "dovecot", 0, &bench.Result{Rate: 30, Server: &bench.ServerUse{}}},
		entry{"LMTP", "covey", 0, &bench.Result{Rate: 300, Server: &bench.ServerUse{}}},
		entry{"POP3 sessions", "covey", 0, &bench.Result{Rate: 5}}) // its peer was left out
	b.json = filepath.Join(t.TempDir(), "peers.json")
	if err := b.print(io.Discard); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "chart.svg")
	if err := chart([]string{"-in", b.json, "-out", out}); err != nil {
		t.Fatal(err)
	}
	svg, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	text := string(svg)
	for _, want := range []string{
		`class="peer" x="120" y="86" width="440"`, `class="covey" x="120" y="108" width="220"`, // half as much
		`class="peer" x="120" y="160" width="44"`, `class="covey" x="120" y="182" width="440"`, // ten times
		">0.50 × smtp-sink, goal 0.5<", ">10.0 × dovecot, goal 6<", ">100/s<", "medians of 3 rounds", "prefers-color-scheme: dark",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in the chart", want)
		}
	}
	for _, no := range []string{"POP3", "<script", "href"} {
		if strings.Contains(text, no) {
			t.Errorf("the chart has %q", no)
		}
	}
	wellFormed(t, text)
}

func wellFormed(t *testing.T, text string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
	}
}

func TestChartOfNothing(t *testing.T) {
	name := filepath.Join(t.TempDir(), "in")
	for text, want := range map[string]string{"[]": "no contest", "{": "not from -json", `[{"row":"a","short":true,"figures":[{"goal":1}]}]`: "no figure"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(t.TempDir(), "out.svg")
		if err := chart([]string{"-in", name, "-out", out}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", text, err, want)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%s: a chart was written", text)
		}
	}
}

func TestChartOfGoals(t *testing.T) {
	dir := t.TempDir()
	in, out := filepath.Join(dir, "rows.json"), filepath.Join(dir, "rows.svg")
	list := []report{
		{Row: "gap", Figures: []figure{{Name: "p50 <", Value: 1, Unit: "s", Goal: 2, Most: true}, {Name: "no goal", Value: 3}}},
		{Row: "ratio", Figures: []figure{{Name: "a", Value: 0.2, Goal: 0.5}, {Name: "b", Value: 50, Goal: 0.5}, {Name: "c", Value: 0, Goal: 1, Most: true}}},
		{Row: "tried", Short: true, Figures: []figure{{Name: "d", Value: 1, Goal: 1}}},
	}
	if err := writeReports(in, list); err != nil {
		t.Fatal(err)
	}
	if err := chart([]string{"-in", in, "-out", out}); err != nil {
		t.Fatal(err)
	}
	svg, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	text := string(svg)
	for _, want := range []string{
		`class="met" x="20" y="86" width="200"`, `class="missed" x="20" y="130" width="160"`, `class="met" x="20" y="174" width="680"`, `class="met" x="20" y="218" width="1"`,
		"gap: p50 &lt;", ">1.00 s<tspan class=\"quiet\" dx=\"8\">≤ 2<", `x1="420"`, "ratio: a: 0.20, goal ≥ 0.5, missed.",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in the chart", want)
		}
	}
	for _, no := range []string{"no goal", "tried"} {
		if strings.Contains(text, no) {
			t.Errorf("the chart has %q", no)
		}
	}
	wellFormed(t, text)
}
