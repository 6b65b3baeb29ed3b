package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/covey-mail/covey/bench"
)

var largeRow = row{
	name: "large",
	what: "1 MiB messages by SMTP, bytes/s over the lesser of dd and a go-smtp server that throws them away",
	run:  runLarge,
}

const largeSize = 1 << 20

// A largeTest sends the same number of bytes to a discarding server, to a file and
// to Covey in turn.
type largeTest struct {
	*lab
	covey, discard *server
	count          int
	file           string               // as many bytes as count messages, for dd
	rates          map[string][]float64 // MiB/s
	limited        string
}

func runLarge(ctx context.Context, l *lab) ([]figure, error) {
	t := &largeTest{lab: l, count: l.count(2048, 64), file: filepath.Join(l.dir, "text"), rates: make(map[string][]float64)}
	if err := writeText(t.file, t.count*largeSize); err != nil {
		return nil, err
	}
	var err error
	if t.discard, err = l.discarding(ctx); err != nil {
		return nil, err
	}
	if t.covey, err = l.covey(ctx, makeAccounts("user", l.count(1000, 100))); err != nil {
		return nil, err
	}
	for range l.roundsOf(3) {
		if err := errors.Join(t.send(ctx, t.discard), t.dd(ctx), t.send(ctx, t.covey)); err != nil {
			return nil, err
		}
	}
	return t.figures(), nil
}

func (t *largeTest) figures() []figure {
	covey, sink, disk := middle(t.rates["covey"]), middle(t.rates["go-smtp"]), middle(t.rates["dd"])
	which := "go-smtp"
	if disk < sink {
		which = "dd"
	}
	note := fmt.Sprintf("%s is the lesser; medians of %d × %d messages, %d connections", which, len(t.rates["dd"]), t.count, t.connsOf(16))
	if t.limited != "" {
		note += "; the generator was the limit: " + t.limited
	}
	return []figure{
		{Name: "Covey over the lesser", Value: covey / min(sink, disk), Goal: 0.5, Note: note},
		{Name: "Covey", Value: covey, Unit: "MiB/s", Note: spread(t.rates["covey"])},
		{Name: "go-smtp, discarding", Value: sink, Unit: "MiB/s", Note: spread(t.rates["go-smtp"])},
		{Name: "dd conv=fdatasync", Value: disk, Unit: "MiB/s", Note: spread(t.rates["dd"])},
	}
}

func (t *largeTest) send(ctx context.Context, s *server) error {
	res, err := t.load(ctx, bench.Config{
		Protocol: bench.SMTP, Addr: s.addr["smtp"], Conns: t.connsOf(16), Count: int64(t.count), Size: largeSize,
		Users: t.lab.count(1000, 100), UserPattern: "user%05d@" + domain, Seed: uint64(time.Now().UnixNano()),
	})
	if err != nil {
		return err
	}
	t.rates[s.name] = append(t.rates[s.name], res.MiBRate)
	t.limited = res.Limited // last is Covey's
	return nil
}

// dd copies the file, which is in memory, to the disk.
func (t *largeTest) dd(ctx context.Context) error {
	to := filepath.Join(t.dir, "copy")
	began := time.Now()
	out, err := exec.CommandContext(ctx, "dd", "if="+t.file, "of="+to, "bs=1M", "conv=fdatasync").CombinedOutput()
	took := time.Since(began)
	if err != nil {
		return fmt.Errorf("dd: %w: %s", err, out)
	}
	t.rates["dd"] = append(t.rates["dd"], float64(t.count)/took.Seconds())
	return os.Remove(to)
}

// writeText writes a file of as many bytes as messages hold, no easier to store
// than they are. It is then in memory.
func writeText(name string, size int) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	raw := make([]byte, largeSize/4*3)
	random := rand.NewChaCha8([32]byte{})
	for left := size; err == nil && left > 0; left -= largeSize {
		_, _ = random.Read(raw) // it never fails
		_, err = f.WriteString(base64.StdEncoding.EncodeToString(raw)[:min(left, largeSize)])
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// discardCommand runs this program as the discarding server, in a process of its
// own so that it shares nothing with the generator.
const discardCommand = "discard"

func (l *lab) discarding(ctx context.Context) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	return l.keep(launch(ctx, "go-smtp", exec.Command(self, discardCommand, addr), map[string]string{"smtp": addr}))
}

// discard serves on addr until ctx ends.
func discard(ctx context.Context, addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return discardSession{}, nil }))
	s.Domain = "discard.invalid"
	defer context.AfterFunc(ctx, func() { _ = s.Close() })() // Serve says how that went
	if err := s.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}

// A discardSession takes every message and keeps none.
type discardSession struct{}

// Mail implements smtp.Session.
func (discardSession) Mail(string, *smtp.MailOptions) error { return nil }

// Rcpt implements smtp.Session.
func (discardSession) Rcpt(string, *smtp.RcptOptions) error { return nil }

// Data implements smtp.Session.
func (discardSession) Data(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

// Reset implements smtp.Session.
func (discardSession) Reset() {}

// Logout implements smtp.Session.
func (discardSession) Logout() error { return nil }
