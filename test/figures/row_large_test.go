package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/covey-mail/covey/bench"
)

func TestDiscard(t *testing.T) {
	addr, err := freeAddr()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- discard(ctx, addr) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("it ended with %v", err)
		}
	}()
	if err := listening(ctx, addr, ended); err != nil {
		t.Fatal(err)
	}
	res, err := bench.Run(ctx, bench.Config{Protocol: bench.SMTP, Addr: addr, Conns: 2, Count: 5, Size: largeSize})
	if err != nil || res.Done != 5 {
		t.Errorf("%+v, %v; want 5 messages thrown away", res, err)
	}
}

func TestTheLesserCounts(t *testing.T) {
	l := &largeTest{lab: &lab{}, rates: map[string][]float64{"covey": {50, 60, 40}, "go-smtp": {100}, "dd": {400}}}
	if f := l.figures()[0]; f.Value != 0.5 || !strings.Contains(f.Note, "go-smtp is the lesser") {
		t.Errorf("%+v", f)
	}
	l.rates["dd"] = []float64{25}
	l.limited = "of this"
	if f := l.figures()[0]; f.Value != 2 || !strings.Contains(f.Note, "dd is the lesser") || !strings.Contains(f.Note, "of this") {
		t.Errorf("%+v", f)
	}
}

func TestTextForDD(t *testing.T) {
	name := filepath.Join(t.TempDir(), "text")
	if err := writeText(name, largeSize*3/2); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(name)
	if err != nil || len(text) != largeSize*3/2 {
		t.Fatalf("%d bytes, %v", len(text), err)
	}
	if string(text[:1000]) == string(text[largeSize:largeSize+1000]) {
		t.Error("it repeats itself")
	}
}
