// Package scenarios runs the real binary with the clients that people use: curl,
// swaks, mbsync, fetchmail and Python's libraries. It is run by `make scenarios`; without
// COVEY_SCENARIOS in the environment its tests skip.
package scenarios

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/covey-mail/covey/internal/timerslack"
	"github.com/covey-mail/covey/test/process"
)

// covey is the path of the binary under test.
var covey string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Getenv("COVEY_SCENARIOS") == "" {
		fmt.Println("scenarios: skipped; run them with: make scenarios")
		return 0
	}
	dir, err := os.MkdirTemp("", "covey-scenarios-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if covey, err = process.Build(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// node starts a node with the accounts alice and bob of example.org.
func node(t *testing.T, env ...string) *process.Node {
	t.Helper()
	n := process.Start(t, covey, filepath.Join(t.TempDir(), "data"), env...)
	if err := n.AddUsers(t.Context(), "example.org", "alice", "bob"); err != nil {
		t.Fatal(err)
	}
	return n
}

// command runs a client and returns what it printed; the test fails if it does.
func command(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%s is not installed", name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out.String())
	}
	return out.String()
}

func hostPort(t *testing.T, addr string) (host, port string) {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return host, port
}

const letter = "From: Bob <bob@example.org>\r\nTo: alice@example.org\r\nSubject: by curl\r\n\r\nHello.\r\n.dot first\r\n"

func TestCurl(t *testing.T) {
	n := node(t)
	command(t, letter, "curl", "-sS", "--url", "smtp://"+n.Addr("smtp")+"/client.example.net",
		"--mail-from", "bob@example.org", "--mail-rcpt", "alice@example.org", "--upload-file", "-")
	auth := []string{"-sS", "-k", "--ssl-reqd", "-u", "alice@example.org:alice"}
	list := command(t, "", "curl", append(auth, "--url", "pop3://"+n.Addr("pop3"))...)
	if !strings.HasPrefix(list, "1 ") {
		t.Errorf("POP3 list is %q, want one message", list)
	}
	for _, url := range []string{"pop3://" + n.Addr("pop3") + "/1", "imap://" + n.Addr("imap") + "/INBOX;MAILINDEX=1"} {
		if got := command(t, "", "curl", append(auth, "--url", url)...); !strings.HasSuffix(got, letter) {
			t.Errorf("%s gave %q, want it to end in the letter", url, got)
		}
	}
	imaps := command(t, "", "curl", "-sS", "-k", "-u", "alice@example.org:alice", "--url", "imaps://"+n.Addr("imaps")+"/")
	for _, folder := range []string{"INBOX", "Drafts", "Sent", "Junk", "Trash", "Archive"} {
		if !strings.Contains(imaps, folder) {
			t.Errorf("LIST lacks %s:\n%s", folder, imaps)
		}
	}
	metrics := command(t, "", "curl", "-sS", "--url", "http://"+n.Addr("metrics")+"/metrics")
	if !strings.Contains(metrics, "covey_") {
		t.Error("no metrics of ours")
	}
	if got := command(t, "", "curl", "-sS", "--url", "http://"+n.Addr("metrics")+"/readyz"); got != "ready\n" {
		t.Errorf("/readyz says %q", got)
	}
}

func TestSwaks(t *testing.T) {
	n := node(t)
	host, port := hostPort(t, n.Addr("smtp"))
	out := command(t, "", "swaks", "--server", host, "--port", port, "--tls", "--from", "x@example.net",
		"--to", "alice@example.org,bob@example.org", "--header", "Subject: two")
	if !strings.Contains(out, "250 2.0.0") {
		t.Errorf("swaks says:\n%s", out)
	}
	host, port = hostPort(t, n.Addr("submission"))
	for _, mech := range []string{"PLAIN", "LOGIN"} {
		command(t, "", "swaks", "--server", host, "--port", port, "--tls", "--auth", mech, "--auth-user", "bob@example.org",
			"--auth-password", "bob", "--from", "bob@example.org", "--to", "alice@example.org")
	}
	host, port = hostPort(t, n.Addr("submissions"))
	command(t, "", "swaks", "--server", host, "--port", port, "--tls-on-connect", "--auth", "PLAIN", "--auth-user", "bob@example.org",
		"--auth-password", "bob", "--from", "bob@example.org", "--to", "alice@example.org")
	command(t, "", "swaks", "--protocol", "LMTP", "--socket", filepath.Join(n.Data, "lmtp.sock"),
		"--from", "x@example.net", "--to", "alice@example.org")
	if got := command(t, "", "curl", "-sS", "-k", "--ssl-reqd", "-u", "alice@example.org:alice", "--url",
		"imap://"+n.Addr("imap")+"/INBOX", "-X", "STATUS INBOX (MESSAGES)"); !strings.Contains(got, "MESSAGES 5") {
		t.Errorf("alice has %q, want five messages", got)
	}
}

// fetchmail empties bob's mailbox by POP3, and his INBOX by IMAP, and delivers to
// alice by LMTP.
func TestFetchmail(t *testing.T) {
	n := node(t)
	smtp, lmtp := n.Addr("smtp"), n.Addr("lmtp")
	lhost, lport := hostPort(t, lmtp)
	for _, protocol := range []string{"pop3", "imap"} {
		command(t, letter, "curl", "-sS", "--url", "smtp://"+smtp+"/client.example.net",
			"--mail-from", "alice@example.org", "--mail-rcpt", "bob@example.org", "--upload-file", "-")
		host, port := hostPort(t, n.Addr(protocol))
		rc := filepath.Join(t.TempDir(), "fetchmailrc")
		text := fmt.Sprintf("poll %s service %s protocol %s user bob@example.org password bob is alice@example.org here\n"+
			"  sslproto tls1.2+ no sslcertck fetchall smtphost %s/%s smtpname alice@example.org lmtp\n", host, port, protocol, lhost, lport)
		if err := os.WriteFile(rc, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		command(t, "", "fetchmail", "--fetchmailrc", rc, "--nosyslog", "--pidfile", rc+".pid", "--idfile", rc+".ids")
	}
	for account, want := range map[string]string{"alice": "MESSAGES 2", "bob": "MESSAGES 0"} {
		got := command(t, "", "curl", "-sS", "-k", "--ssl-reqd", "-u", account+"@example.org:"+account, "--url",
			"imap://"+n.Addr("imap")+"/INBOX", "-X", "STATUS INBOX (MESSAGES)")
		if !strings.Contains(got, want) {
			t.Errorf("%s has %q, want %s", account, got, want)
		}
	}
}

func TestMbsync(t *testing.T) {
	n := node(t)
	host, port := hostPort(t, n.Addr("imap"))
	dir := t.TempDir()
	for i := range 5 {
		command(t, strings.Replace(letter, "by curl", fmt.Sprintf("number %d", i), 1), "curl", "-sS", "--url",
			"smtp://"+n.Addr("smtp"), "--mail-from", "bob@example.org", "--mail-rcpt", "alice@example.org", "--upload-file", "-")
	}
	config := filepath.Join(dir, "mbsyncrc")
	text := fmt.Sprintf(`IMAPAccount covey
Host %s
Port %s
User alice@example.org
Pass alice
SSLType STARTTLS
CertificateFile %s
AuthMechs LOGIN

IMAPStore far
Account covey

MaildirStore near
Path %s/mail/
Inbox %s/mail/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns *
Create Both
Expunge Both
SyncState *
`, host, port, filepath.Join(n.Data, "tls", "cert.pem"), dir, dir)
	if err := os.MkdirAll(filepath.Join(dir, "mail"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	// The certificate is for the host's name, not for an address.
	sync := func() { command(t, "", "mbsync", "-c", config, "all") }
	sync()
	if got := maildir(t, dir, "INBOX"); len(got) != 5 {
		t.Fatalf("mbsync fetched %d messages, want 5", len(got))
	}
	putLocally(t, dir)
	sync()
	out := command(t, "", "curl", "-sS", "-k", "--ssl-reqd", "-u", "alice@example.org:alice", "--url",
		"imap://"+n.Addr("imap")+"/Local", "-X", "STATUS Local (MESSAGES)")
	if !strings.Contains(out, "MESSAGES 1") {
		t.Errorf("the folder made locally arrived as %q", out)
	}
	got := maildir(t, dir, "INBOX")
	if err := os.Rename(got[0], got[0]+"T"); err != nil { // T: trashed
		t.Fatal(err)
	}
	sync()
	if left := maildir(t, dir, "INBOX"); len(left) != 4 {
		t.Errorf("%d messages after one was trashed, want 4", len(left))
	}
}

// putLocally makes a folder with one message in the Maildir.
func putLocally(t *testing.T, dir string) {
	t.Helper()
	for _, d := range []string{"cur", "new", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, "mail", "Local", d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Join(dir, "mail", "Local", "cur", "1700000000.1.host:2,S")
	if err := os.WriteFile(name, []byte("Subject: local\n\nbody\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func maildir(t *testing.T, dir, folder string) []string {
	t.Helper()
	var all []string
	for _, d := range []string{"cur", "new"} {
		names, err := filepath.Glob(filepath.Join(dir, "mail", folder, d, "*"))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, names...)
	}
	return all
}

func TestPython(t *testing.T) {
	n := node(t)
	args := []string{"testdata/clients.py"}
	for _, s := range []string{"smtp", "submission", "submissions", "lmtp", "imap", "imaps", "pop3", "pop3s"} {
		args = append(args, s+"="+n.Addr(s))
	}
	out := command(t, "", "python3", append(args, "lmtpsock="+filepath.Join(n.Data, "lmtp.sock"))...)
	if !strings.Contains(out, "all well") {
		t.Errorf("clients.py says:\n%s", out)
	}
}

// TestRestart shows that what was acknowledged is there after SIGKILL and after
// SIGTERM, with the same UIDs.
func TestRestart(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	n := process.Start(t, covey, data)
	if err := n.AddUsers(t.Context(), "example.org", "alice", "bob"); err != nil {
		t.Fatal(err)
	}
	want := ""
	for round := range 3 {
		command(t, strings.Replace(letter, "by curl", fmt.Sprintf("round %d", round), 1), "curl", "-sS", "--url",
			"smtp://"+n.Addr("smtp"), "--mail-from", "bob@example.org", "--mail-rcpt", "alice@example.org", "--upload-file", "-")
		uids := command(t, "", "curl", "-sS", "-k", "--ssl-reqd", "-u", "alice@example.org:alice", "--url",
			"pop3://"+n.Addr("pop3")+"/", "-X", "UIDL")
		if !strings.HasPrefix(uids, want) || strings.Count(uids, "\n") != round+1 {
			t.Fatalf("round %d: UIDL is %q, want it to continue %q", round, uids, want)
		}
		want = uids
		if round%2 == 0 {
			n.Kill()
		} else if err := n.Stop(); err != nil {
			t.Fatalf("SIGTERM: %v", err)
		}
		n = process.Start(t, covey, data)
	}
	if out, err := n.Covey(t.Context(), "", "check"); err != nil {
		t.Errorf("covey check: %v\n%s", err, out)
	}
}

// A node starts itself anew with timers that may be late, under the process id that it
// was started with (docs/decisions/020-timers-may-be-late.md).
func TestTimersMayBeLate(t *testing.T) {
	var n *process.Node
	err := timerslack.Spare(func() error {
		n = process.Start(t, covey, filepath.Join(t.TempDir(), "data"))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slack, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", n.PID()))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.TrimSpace(string(slack)), fmt.Sprint(timerslack.Wide.Nanoseconds()); got != want {
		t.Errorf("timers may be late by %s ns, want %s", got, want)
	}
}
