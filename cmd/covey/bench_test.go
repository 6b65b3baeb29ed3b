package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/covey-mail/covey/bench"
	"github.com/covey-mail/covey/node"
	"github.com/covey-mail/covey/node/admin"
)

// benchNode starts a node with the accounts user00000 to user00004, whose password
// is what stands before the @, and returns where each service listens, and its data folder as data.
func benchNode(t *testing.T) map[string]string {
	t.Helper()
	dir := t.TempDir()
	cfg := demoConfig(dir)
	n, err := node.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
	})
	c := admin.NewClient(dir)
	defer c.Close()
	if _, err := admin.Call[admin.Done](t.Context(), c, admin.DomainAdd, admin.Name{Name: demoDomain}); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		password := fmt.Sprintf("user%05d", i)
		req := admin.UserRequest{Address: password + "@" + demoDomain, Password: &password}
		if _, err := admin.Call[admin.User](t.Context(), c, admin.UserAdd, req); err != nil {
			t.Fatal(err)
		}
	}
	at := map[string]string{"data": dir}
	for _, l := range n.Listening() {
		if !strings.HasPrefix(l.Address, "unix:") {
			at[l.Service] = l.Address
		}
	}
	return at
}

func runBench(t *testing.T, args ...string) (exit int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	// Before args, so that they may say otherwise: a POP3 maildrop serves one.
	head := []string{"bench", args[0], "--no-ceiling", "--users=5", "--conns=4"}
	exit = run(context.Background(), append(head, args[1:]...), stdio{strings.NewReader(""), &out, &errs})
	return exit, out.String(), errs.String()
}

func TestBenchAgainstANode(t *testing.T) {
	at := benchNode(t)
	for _, args := range [][]string{
		{"smtp", at["smtp"], "--count=40", "--verify=imap://" + at["imap"]},
		{"smtp", at["smtp"], "--count=40", "--pipeline", "--per-session=3", "--verify=pop3s://" + at["pop3s"]},
		{"smtp", at["smtp"], "--count=20", "--tls=starttls", "--rate=500"},
		{"smtp", at["submission"], "--auth", "--count=20", "--tls=starttls", "--verify=pop3://" + at["pop3"]},
		{"smtp", at["submissions"], "--auth", "--count=20", "--tls=implicit", "--per-session=2", "--verify=imap://" + at["imap"]},
		{"lmtp", at["lmtp"], "--count=20", "--verify=imaps://" + at["imaps"]},
		{"pop3", at["pop3"], "--count=20", "--conns=1", "--retr=2", "--delete"},
		{"imap", at["imap"], "--count=20", "--envelopes=3", "--bodies=2"},
		{"imap", at["imap"], "--count=20", "--keep=mailbox", "--conns=2", "--envelopes=3", "--bodies=2"},
		{"imap", at["imaps"], "--count=8", "--tls=implicit", "--envelopes=0", "--bodies=0"},
	} {
		exit, out, errs := runBench(t, append(args, "--json")...)
		if exit != 0 {
			t.Errorf("%v: exit %d: %s", args, exit, errs)
			continue
		}
		var res bench.Result
		if err := json.Unmarshal([]byte(out), &res); err != nil {
			t.Fatalf("%v: %v in %s", args, err, out)
		}
		if res.Failed != 0 || res.Done == 0 || res.Overflow != 0 {
			t.Errorf("%v: %d done, failures %v", args, res.Done, res.Failures)
		}
		if sends := args[0] == "smtp" || args[0] == "lmtp"; sends != (res.Accept.P50 > 0) || res.Accept.Max > res.Latency.Max {
			t.Errorf("%v: from the end of DATA to its reply %v, in all %v", args, res.Accept, res.Latency)
		}
	}
}

// The table that covey user list prints is a file of groups.
func TestBenchTimelineOfShards(t *testing.T) {
	at := benchNode(t)
	var list bytes.Buffer
	if exit := run(context.Background(), []string{"user", "list", "--data", at["data"]}, stdio{strings.NewReader(""), &list, &list}); exit != 0 {
		t.Fatalf("user list: %s", &list)
	}
	groups, lines := filepath.Join(t.TempDir(), "groups"), filepath.Join(t.TempDir(), "lines")
	if err := os.WriteFile(groups, list.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	_, shard, _ := strings.Cut(list.String(), "user00003@"+demoDomain)
	shard = strings.Fields(shard)[0]
	exit, out, errs := runBench(t, "smtp", at["smtp"]+","+at["smtp"], "--count=30", "--groups="+groups, "--only="+shard, "--timeline="+lines, "--json",
		"--verify=imap://"+at["imap"])
	if exit != 0 {
		t.Fatalf("exit %d: %s", exit, errs)
	}
	var res bench.Result
	if err := json.Unmarshal([]byte(out), &res); err != nil {
		t.Fatal(err)
	}
	for _, g := range res.Groups {
		if want := map[bool]int64{true: 30}[g.Label == shard]; g.Done != want || g.Failed != 0 {
			t.Errorf("group %+v, want %d done", g, want)
		}
	}
	text, err := os.ReadFile(lines)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(text), "\n"); !strings.HasPrefix(string(text), bench.MomentsHead) || got != 1+len(res.Timeline) || got < 3 {
		t.Errorf("%d lines, %d in the JSON:\n%s", got, len(res.Timeline), text)
	}

	exit, out, errs = runBench(t, "pop3", at["pop3"], "--count=3", "--conns=1", "--retr=0", "--timeline=-")
	if exit != 0 || !strings.HasPrefix(out, bench.MomentsHead) || !strings.Contains(out, "  all ") || !strings.Contains(out, "longest gap") {
		t.Errorf("exit %d, %s:\n%s", exit, errs, out)
	}
	for want, args := range map[string][]string{
		"no such file":     {"--groups=/does/not/exist"},
		"of which group":   {"--only=1"},
		"no user is of":    {"--groups=" + groups, "--only=none"},
		"is a directory":   {"--timeline=" + t.TempDir()},
		"name none of the": {"--groups=" + lines},
	} {
		if exit, _, errs := runBench(t, append([]string{"smtp", at["smtp"], "--count=1"}, args...)...); exit != 1 || !strings.Contains(errs, want) {
			t.Errorf("%v: exit %d, %q; want %q", args, exit, errs, want)
		}
	}
}

func TestBenchSaysWhatToDo(t *testing.T) {
	at := benchNode(t)
	for want, args := range map[string][]string{
		"must name accounts that exist":      {"smtp", at["smtp"], "--count=2", "--user-pattern=nobody%d@" + demoDomain},
		"login: 535":                         {"smtp", at["submission"], "--auth", "--count=2", "--password=wrong"},
		"must name accounts that can log in": {"imap", at["imap"], "--count=2", "--password=wrong"},
		"the user pattern needs one %d":      {"pop3", at["pop3"], "--count=2", "--user-pattern=alice@" + demoDomain},
		"does this port speak":               {"pop3", at["imap"], "--count=2"},
	} {
		exit, out, errs := runBench(t, args...)
		if exit != 1 || !strings.Contains(errs, want) {
			t.Errorf("%v: exit %d, %q and %q, want 1 and %q", args, exit, out, errs, want)
		}
	}
}

func TestBenchProgressOffATerminal(t *testing.T) {
	var errs bytes.Buffer
	p := &benchProgress{io: stdio{err: &errs}}
	for i := 1; i <= 25; i++ {
		p.show(bench.Progress{Phase: "load", Elapsed: time.Duration(i) * time.Second, Whole: 3 * plainEvery, Done: int64(i), Rate: 1})
	}
	p.clear()
	want := "load 10s of 30s: 10 done, 0 failed, 1/s\nload 20s of 30s: 20 done, 0 failed, 1/s\n"
	if errs.String() != want {
		t.Errorf("got %q, want %q", errs.String(), want)
	}
	p.drawn = true
	errs.Reset()
	p.show(bench.Progress{Phase: "verify", Done: 3})
	p.clear()
	if want := "\r\x1b[Kverify 0s: 3 done, 0 failed, 0/s\r\x1b[K"; errs.String() != want {
		t.Errorf("on a terminal %q, want %q", errs.String(), want)
	}
}
