package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/covey-mail/covey/bench"
	"github.com/covey-mail/covey/directory/password"
)

func TestAccountsHaveTheirNameAsPassword(t *testing.T) {
	list := makeAccounts("user", 3)
	h := password.NewHasher(1)
	for i, want := range []string{"user00000", "user00001", "user00002"} {
		if list[i].address != want+"@"+domain {
			t.Errorf("account %d is %s, want %s", i, list[i].address, want)
		}
		if ok, err := h.Verify(t.Context(), list[i].hash, want); err != nil || !ok {
			t.Errorf("%s: password %q: %v, %v", list[i].hash, want, ok, err)
		}
	}
}

func filled(rates map[string][]float64) *board {
	b := &board{lab: &lab{}, servers: map[string]*server{"smtp-sink": {}, "covey": {}}}
	for name, list := range rates {
		for i, r := range list {
			res := &bench.Result{Rate: r, Server: &bench.ServerUse{CPUMicros: 10 * r}}
			b.entries = append(b.entries, entry{"SMTP, kept open", name, i, res})
		}
	}
	return b
}

func TestMedians(t *testing.T) {
	b := filled(map[string][]float64{"covey": {30, 10, 20}, "smtp-sink": {40, 10}})
	rate := func(r *bench.Result) float64 { return r.Rate }
	for server, want := range map[string]float64{"covey": 20, "smtp-sink": 25, "dovecot": 0} {
		if got := b.median("SMTP, kept open", server, rate); got != want {
			t.Errorf("median of %s is %v, want %v", server, got, want)
		}
	}
}

func TestTable(t *testing.T) {
	b := filled(map[string][]float64{"covey": {100}, "smtp-sink": {200}})
	b.entries[0].Result.Limited = "of this and that"
	b.entries[0].Result.Failures = []bench.FailureClass{{What: "login: in use", Count: 2}}
	b.json = filepath.Join(t.TempDir(), "all.json")
	var out strings.Builder
	if err := b.print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"SMTP, kept open  smtp-sink     200      100   0.50", "the generator was the limit: of this and that", "2 failed: login: in use"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "POP3") {
		t.Errorf("a row without its peer:\n%s", out.String())
	}
	if text, err := os.ReadFile(b.json); err != nil || !strings.Contains(string(text), `"contest": "SMTP, kept open"`) {
		t.Errorf("entries written: %s, %v", text, err)
	}
}

// Dovecot's own parser must take the configuration; where it is not installed,
// the template must at least be filled in.
func TestDovecotConfiguration(t *testing.T) {
	owner, err := mailOwner()
	if err != nil {
		t.Skip(err)
	}
	for _, unprivileged := range []bool{false, true} {
		dir := t.TempDir()
		settings := map[string]any{
			"Dir": dir, "CPUs": 2, "User": owner.Username, "Group": groupName(owner), "Unprivileged": unprivileged,
			"IMAP": "1143", "POP3": "1110", "LMTP": "1024",
		}
		conf, err := writeDovecot(dir, settings, owner, makeAccounts("user", 2))
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(conf)
		if err != nil || strings.Contains(string(text), "<no value>") || strings.Contains(string(text), "{{") {
			t.Errorf("configuration not filled in: %v\n%s", err, text)
		}
		users, err := os.ReadFile(filepath.Join(dir, "users"))
		if err != nil || strings.Count(string(users), "\n") != 2 || strings.Count(string(users), ":") != 10 {
			t.Errorf("accounts: %v\n%s", err, users)
		}
		if doveconf, err := exec.LookPath("doveconf"); err == nil {
			if out, err := exec.Command(doveconf, "-n", "-c", conf).CombinedOutput(); err != nil {
				t.Errorf("doveconf: %v\n%s", err, out)
			}
		}
	}
}

func TestFilesystemInMemoryIsNamed(t *testing.T) {
	if got := filesystem("/dev/shm"); !strings.Contains(got, "IN MEMORY") {
		if _, err := os.Stat("/dev/shm"); err != nil {
			t.Skip("no /dev/shm")
		}
		t.Errorf("/dev/shm is %q", got)
	}
}

func TestServerThatDoesNotStart(t *testing.T) {
	addr, err := freeAddr()
	if err != nil {
		t.Fatal(err)
	}
	_, err = launch(t.Context(), "false", exec.Command("/bin/sh", "-c", "echo why >&2; exit 3"), map[string]string{"smtp": addr})
	if err == nil || !strings.Contains(err.Error(), "it ended (exit status 3)") || !strings.Contains(err.Error(), "why") {
		t.Errorf("error %v, want that it ended and why", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = launch(ctx, "sleep", exec.Command("/bin/sh", "-c", "exec sleep 60"), map[string]string{"smtp": addr})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want the end of the context", err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, args := range [][]string{{"-rounds", "-1"}, {"-duration", "-1s"}, {"-conns", "many"}, {"written"}, {"-nothing"}} {
		if _, err := parse("all", args); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
	o, err := parse("peers", []string{"-rounds", "1", "-conns", "64", "-readers", "64"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.forPeers(); err == nil {
		t.Error("64 connections to 64 mailboxes were taken")
	}
	o = options{rounds: 2}
	if o, err = o.forPeers(); err != nil || o.rounds != 2 || o.conns != 64 || o.duration == 0 {
		t.Errorf("%+v, %v; want 2 rounds and the defaults", o, err)
	}
}
