package node

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/node/admin"
)

func TestMailThroughANodeOutlivesARestart(t *testing.T) {
	cfg := config(filepath.Join(t.TempDir(), "new"))
	n := withUsers(t, cfg)
	send(t, n, "first")
	d := pop(t, n)
	if got := d.say("STAT", "+OK"); !strings.HasPrefix(got, "+OK 1 ") {
		t.Errorf("STAT: got %q, want one message", got)
	}
	d.say("RETR 1", "+OK")
	if lines, err := d.ReadDotLines(); err != nil || !slices.Contains(lines, "body of first") {
		t.Errorf("RETR: got %q, %v", lines, err)
	}
	d.say("QUIT", "+OK")
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(cfg.Node.Data, admin.SocketName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("admin socket after Stop: %v, want it gone", err)
	}

	again := run(t, cfg)
	if again.folder.id != n.folder.id || again.folder.self.Boot != 2 {
		t.Errorf("node %s, boot %d; want %s, boot 2", again.folder.id, again.folder.self.Boot, n.folder.id)
	}
	send(t, again, "second")
	for _, service := range []string{"imap", "imaps"} {
		d := imap(t, again, service)
		got := d.say("a3 FETCH 1:* BODY.PEEK[HEADER.FIELDS (SUBJECT)]", "a3 OK")
		if !strings.Contains(got, "Subject: first") || !strings.Contains(got, "Subject: second") {
			t.Errorf("%s: got %s, want both messages", service, got)
		}
		d.say("a4 LOGOUT", "a4 OK")
	}
}

func TestEveryListenerAnswers(t *testing.T) {
	n := run(t, config(t.TempDir()))
	for service, greeting := range map[string]string{
		"smtp": "220 mail.example.org", "submission": "220 mail.example.org", "submissions": "220 mail.example.org",
		"lmtp": "220 mail.example.org", "imap": "* OK", "imaps": "* OK", "pop3": "+OK", "pop3s": "+OK",
	} {
		t.Run(service, func(t *testing.T) {
			dial(t, n, service).expect(greeting)
		})
	}
	status := call[admin.Status](t, n, admin.NodeStatus, admin.Empty{})
	var got []Listening
	for _, l := range status.Listen {
		got = append(got, Listening(l))
	}
	if d := cmp.Diff(n.Listening(), got); d != "" {
		t.Errorf("status differs from Listening (-want +got):\n%s", d)
	}
}

func TestTwoNodesInOneProcess(t *testing.T) {
	a, b := withUsers(t, config(t.TempDir())), withUsers(t, config(t.TempDir()))
	send(t, a, "for a")
	send(t, b, "one for b")
	send(t, b, "two for b")
	if messages(t, a) != 1 || messages(t, b) != 2 {
		t.Errorf("messages: %d and %d, want 1 and 2", messages(t, a), messages(t, b))
	}
	if a.folder.id == b.folder.id {
		t.Error("both nodes have one id")
	}
}

func TestStartRefusesAFolderInUse(t *testing.T) {
	cfg := onlySMTP(config(t.TempDir()))
	n := run(t, cfg)
	_, err := Start(t.Context(), cfg)
	if !errors.Is(err, ErrLocked) {
		t.Fatalf("second start: got %v, want ErrLocked", err)
	}
	for _, want := range []string{cfg.Node.Data, "stop that node first"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
	if s := call[admin.Status](t, n, admin.NodeStatus, admin.Empty{}); !s.Ready {
		t.Error("the first node is not ready any more")
	}
}

// A start that fails half way must leave nothing open; goleak sees to goroutines.
func TestTakenPortEndsTheStartAndClosesTheRest(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	free := freeAddr(t)
	cfg := config(t.TempDir())
	cfg.Listen.SMTP, cfg.Listen.POP3S = []string{free}, []string{taken.Addr().String()}
	_, err = Start(t.Context(), cfg)
	if err == nil {
		t.Fatal("started on a port that is taken")
	}
	for _, want := range []string{"[listen] pop3s", taken.Addr().String(), "--port-offset"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
	cfg.Listen.POP3S = []string{"127.0.0.1:0"}
	if err := run(t, cfg).Stop(); err != nil {
		t.Error(err)
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestUnixSocketsInTheWay(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	t.Run("left over", func(t *testing.T) {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
		again, err := listen("unix:" + path)
		if err != nil {
			t.Fatal(err)
		}
		again.Close()
	})
	t.Run("in use", func(t *testing.T) {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, err = listen("unix:" + path)
		if err == nil || !strings.Contains(listenHint(err), "another program") {
			t.Errorf("got %v (%s), want the socket left to its owner", err, listenHint(err))
		}
	})
	t.Run("not a socket", func(t *testing.T) {
		writeFile(t, "precious", path)
		if _, err := listen("unix:" + path); err == nil {
			t.Error("listens in place of a file")
		}
		if b, err := os.ReadFile(path); string(b) != "precious" {
			t.Errorf("the file is now %q, %v", b, err)
		}
	})
}

func TestStopAgainAndBeside(t *testing.T) {
	n := run(t, onlySMTP(config(t.TempDir())))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := n.Stop(); err != nil {
				t.Errorf("stop: %v", err)
			}
		})
	}
	wg.Wait()
	select {
	case <-n.Failed():
	default:
		t.Error("Failed is open although the engine has stopped")
	}
	if n.readyErr() == nil {
		t.Error("a stopped node says it is ready")
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(over, onlySMTP(config(t.TempDir()))); err == nil {
		t.Error("started although the context was over")
	}
}

func TestShardsAreFixed(t *testing.T) {
	cfg := onlySMTP(config(t.TempDir()))
	if err := run(t, cfg).Stop(); err != nil {
		t.Fatal(err)
	}
	var log logBuffer
	cfg.Cluster.Shards, cfg.Logger = 5, log.logger()
	n := run(t, cfg)
	if got := len(n.host.Status()); got != 1+2 {
		t.Errorf("%d groups, want 3", got)
	}
	if !strings.Contains(log.String(), "number of shards is fixed") || !strings.Contains(log.String(), "configured=5 shards=2") {
		t.Errorf("no warning in the log:\n%s", log.String())
	}
}

func TestQuotaOfNewAccounts(t *testing.T) {
	cfg := onlySMTP(config(t.TempDir()))
	n := withUsers(t, cfg)
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	cfg.Limits.Quota = 12345
	n = run(t, cfg)
	one, password := int64(1), "secret"
	call[admin.User](t, n, admin.UserAdd, admin.UserRequest{Address: "new@example.org", Password: &password})
	call[admin.User](t, n, admin.UserAdd, admin.UserRequest{Address: "own@example.org", Password: &password, Quota: &one})
	got := map[string]int64{}
	for _, u := range call[[]admin.User](t, n, admin.UserList, admin.Page{}) {
		got[u.Address] = u.Quota
	}
	want := map[string]int64{"alice@example.org": 0, "bob@example.org": 0, "new@example.org": 12345, "own@example.org": 1}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("quotas (-want +got):\n%s", d)
	}
}

func TestRemovedAccountsMailIsDropped(t *testing.T) {
	n := withUsers(t, config(t.TempDir()))
	send(t, n, "to be gone")
	was := call[admin.User](t, n, admin.UserShow, admin.Name{Name: "alice@example.org"})
	if was.Messages != 1 {
		t.Fatalf("%d messages, want 1", was.Messages)
	}
	// As after a crash between the directory's part and the shard's.
	if _, err := n.directory.RemoveAccount(t.Context(), covey.Address{Local: "alice", Domain: "example.org"}); err != nil {
		t.Fatal(err)
	}
	if err := n.dropOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := n.shards.Local(was.Shard)
	if err != nil {
		t.Fatal(err)
	}
	if used, err := r.Account(was.ID); used.Messages != 0 || err != nil && !errors.Is(err, covey.NotFound) {
		t.Errorf("the shard still has %d messages, %v", used.Messages, err)
	}
	if left, err := n.directory.Drops(10); len(left) != 0 || err != nil {
		t.Errorf("left to drop: %v, %v", left, err)
	}
}

func TestConnectionsFitTheDescriptors(t *testing.T) {
	cfg := config("/data") // eight mail listeners, two shards
	cfg.Limits.Connections = 4000
	for _, tt := range []struct{ files, want int }{
		{0, 4000}, {1 << 20, 4000}, {20000, (20000 - 12 - 8 - 128) / 8}, {1024, (1024 - 148) / 8}, {100, 8},
	} {
		cfg.Files = tt.files
		if got := cfg.connections(); got != tt.want {
			t.Errorf("%d files: %d connections, want %d", tt.files, got, tt.want)
		}
	}
}

func TestFewDescriptorsAreWarnedAbout(t *testing.T) {
	var log logBuffer
	cfg := onlySMTP(config(t.TempDir()))
	cfg.Files, cfg.Logger = 512, log.logger()
	run(t, cfg)
	if !strings.Contains(log.String(), "LimitNOFILE") {
		t.Errorf("no warning in the log:\n%s", log.String())
	}
}

// One connection too many is told so in its protocol, but not where TLS comes
// first: a line of text is no answer to a ClientHello.
func TestRefusalsSpeakTheProtocol(t *testing.T) {
	cfg := config(t.TempDir())
	cfg.Limits.Connections = 1
	n := run(t, cfg)
	for service, want := range map[string]string{
		"smtp": "421 4.7.0 ", "submission": "421 4.7.0 ", "lmtp": "421 4.7.0 ", "imap": "* BYE [UNAVAILABLE] ", "pop3": "-ERR [SYS/TEMP] ",
		"submissions": "", "imaps": "", "pop3s": "",
	} {
		t.Run(service, func(t *testing.T) {
			first := dial(t, n, service) // takes the place
			if _, err := first.ReadLine(); err != nil {
				t.Fatal(err)
			}
			network, address := addr(t, n, service)
			c, err := net.Dial(network, address)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			b, err := io.ReadAll(c)
			if err != nil {
				t.Error(err)
			}
			got := string(b)
			if !strings.HasPrefix(got, want) || want == "" && got != "" {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}
