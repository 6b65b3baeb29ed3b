package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/covey-mail/covey/node/admin"
)

func TestExitStatus(t *testing.T) {
	empty := t.TempDir()
	for _, tt := range []struct {
		args     []string
		code     int
		out, err string
	}{
		{[]string{"help"}, 0, "user add <address>", ""},
		{[]string{"--help"}, 0, "user add <address>", ""},
		{[]string{"help", "user", "add"}, 0, "--quota", ""},
		{[]string{"user", "add", "--help"}, 0, "--quota", ""},
		{[]string{"version"}, 0, "covey dev go", ""},
		{nil, 2, "", "See: covey help"},
		{[]string{"user"}, 2, "", "See: covey help"},
		{[]string{"frobnicate"}, 2, "", "frobnicate"},
		{[]string{"status", "--no-such-flag"}, 2, "", "no-such-flag"},
		{[]string{"user", "set", "a@b.example", "--quota", "much"}, 2, "", "is not a size"},
		{[]string{"user", "set", "a@b.example", "--enable", "--disable"}, 2, "", "disable"},
		{[]string{"status"}, 1, "", "no data folder"},
		{[]string{"status", "--data", empty}, 1, "", "start it with: covey serve --data " + empty},
		{[]string{"health", "--data", empty}, 1, "", "start it with: covey serve --data " + empty},
		{[]string{"serve", "--config", "/no/such/file"}, 1, "", "/no/such/file"},
		{[]string{"check", "--data", empty}, 1, "", "is not a data folder"},
		{[]string{"check", "--data", filepath.Join(empty, "none")}, 1, "", "there is no data folder"},
		{[]string{"user", "import", "/no/such/file", "--data", empty}, 1, "", "/no/such/file"},
	} {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			r := covey(t, "", tt.args...)
			if r.code != tt.code || !strings.Contains(r.out, tt.out) || !strings.Contains(r.err, tt.err) || tt.err == "" && r.err != "" {
				t.Errorf("got status %d\nout: %s\nerr: %s\nwant %d, %q, %q", r.code, r.out, r.err, tt.code, tt.out, tt.err)
			}
		})
	}
}

// Each command against a node in this process.
func TestCommands(t *testing.T) {
	dir := serve(t)
	at := func(args ...string) []string { return append(args, "--data", dir) }
	same := func(what string, want, got any, opts ...cmp.Option) {
		t.Helper()
		if d := cmp.Diff(want, got, opts...); d != "" {
			t.Errorf("%s (-want +got):\n%s", what, d)
		}
	}
	made := cmpopts.IgnoreFields(admin.User{}, "ID", "Shard", "Created", "Nodes", "Leader")

	same("domain add", "domain example.org added\n", ok(t, "", at("domain", "add", "example.org")...))
	same("domain add --json", map[string]string{"done": "domain other.example added"},
		decoded[map[string]string](t, "", at("domain", "add", "other.example")...))
	same("user add", "account alice@example.org added\n", ok(t, "secret\n", at("user", "add", "alice@example.org")...))
	ok(t, "", at("user", "add", "bob@example.org", "--hash", "{PLAIN}open", "--quota", "2MiB")...)
	bob := decoded[admin.User](t, "", at("user", "show", "bob@example.org")...)
	same("user show", "ADDRESS          SHARD  MESSAGES  SIZE  QUOTA    LOG-IN\nbob@example.org  2      0         0 B   2.0 MiB  yes\n\n"+
		"shard 2: led by node "+bob.Leader+"; replicas on "+bob.Leader+"\n", ok(t, "", at("user", "show", "bob@example.org")...))
	ok(t, "", at("user", "set", "bob@example.org", "--disable", "--quota", "0")...)
	same("user show --json", admin.User{Address: "bob@example.org", Disabled: true},
		decoded[admin.User](t, "", at("user", "show", "bob@example.org")...), made)
	ok(t, "", at("user", "set", "bob@example.org", "--enable")...)
	ok(t, "another\n", at("passwd", "bob@example.org")...)
	ok(t, "", at("passwd", "bob@example.org", "--hash", "{PLAIN}open")...)
	same("user list --json", []admin.User{{Address: "alice@example.org"}, {Address: "bob@example.org"}},
		decoded[[]admin.User](t, "", at("user", "list")...), made)
	same("user list of a prefix", []admin.User{}, decoded[[]admin.User](t, "", at("user", "list", "zoe")...))

	ok(t, "", at("alias", "add", "info@example.org", "alice@example.org")...)
	ok(t, "", at("alias", "set", "info@example.org", "alice@example.org", "bob@example.org")...)
	ok(t, "", at("alias", "add", "@other.example", "bob@example.org")...)
	same("alias list --json", []admin.Alias{
		{Address: "info@example.org", Targets: []string{"alice@example.org", "bob@example.org"}},
		{Address: "@other.example", Targets: []string{"bob@example.org"}},
	}, decoded[[]admin.Alias](t, "", at("alias", "list")...))
	same("alias list", "ALIAS             TARGETS\ninfo@example.org  alice@example.org bob@example.org\n@other.example    bob@example.org\n",
		ok(t, "", at("alias", "list")...))
	same("domain list --json", []admin.Domain{{Name: "example.org", Accounts: 2, Aliases: 1}, {Name: "other.example", Aliases: 1}},
		decoded[[]admin.Domain](t, "", at("domain", "list")...))
	same("domain list", "DOMAIN         ACCOUNTS  ALIASES\nexample.org    2         1\nother.example  0         1\n",
		ok(t, "", at("domain", "list")...))

	same("cluster set", "REPLICAS  REBUILD_AFTER  QUOTA\n1         10m0s          none\n", ok(t, "", at("cluster", "set", "--replicas", "1")...))
	secret := filepath.Join(t.TempDir(), "secret")
	ok(t, "", "secret", secret)
	first, err := os.ReadFile(secret)
	ok(t, "", "secret", secret)
	if again, _ := os.ReadFile(secret); err != nil || len(first) < 64 || string(again) != string(first) {
		t.Errorf("secret: %d octets, then %d, %v", len(first), len(again), err)
	}
	same("queue list", "DELIVERY  SHARD  SINCE  TRIES  FROM  TO  ERROR\n", ok(t, "", at("queue", "list")...))
	same("queue list --json", admin.QueueAnswer{}, decoded[admin.QueueAnswer](t, "", at("queue", "list", "--limit", "10")...), cmpopts.EquateEmpty())
	if got := fails(t, "", at("queue", "list", "--limit", "10001")...); !strings.Contains(got, "limit 10001") {
		t.Errorf("queue list of too many: %q", got)
	}
	same("health", "ready\n", ok(t, "", at("health")...))
	s := decoded[admin.Status](t, "", at("status")...)
	if !s.Ready || s.Data != dir || s.Accounts != 2 || len(s.Shards) != 3 {
		t.Errorf("status --json: %+v", s)
	}
	text := ok(t, "", at("status")...)
	for _, want := range []string{s.Node, "ready since", "2 domains, 2 accounts", "smtp     " + s.Listen[0].Address, "SHARD  LEADER"} {
		if !strings.Contains(text, want) {
			t.Errorf("status does not say %q:\n%s", want, text)
		}
	}
	if got := ok(t, "", at("check")...); got != "2 shards, 0 B of messages checked\n" {
		t.Errorf("check: %q", got)
	}
	if res := decoded[admin.CheckResult](t, "", at("check")...); res.Shards != 2 || len(res.Problems) != 0 {
		t.Errorf("check --json: %+v", res)
	}
	if got := fails(t, "", at("user", "set", "bob@example.org")...); !strings.Contains(got, "nothing to change") {
		t.Errorf("user set without a change: %q", got)
	}
	if got := fails(t, "", at("user", "add", "carol@example.org")...); !strings.Contains(got, "standard input") {
		t.Errorf("user add without a password: %q", got)
	}
	if got := fails(t, "x\n", at("user", "add", "carol@nowhere.example")...); !strings.Contains(got, "nowhere.example") {
		t.Errorf("user add in a foreign domain: %q", got)
	}

	ok(t, "", at("alias", "remove", "info@example.org")...)
	ok(t, "", at("alias", "remove", "@other.example")...)
	ok(t, "", at("user", "remove", "alice@example.org")...)
	ok(t, "", at("user", "remove", "bob@example.org")...)
	ok(t, "", at("domain", "remove", "example.org")...)
	same("domain list at the end", []admin.Domain{{Name: "other.example"}}, decoded[[]admin.Domain](t, "", at("domain", "list")...))
}

// A configuration file and the environment name the data folder too.
func TestFolderFromElsewhere(t *testing.T) {
	dir := serve(t)
	file := configFile(t, "[node]\ndata = \""+dir+"\"\n")
	if s := decoded[admin.Status](t, "", "status", "--config", file); s.Data != dir {
		t.Errorf("--config: got %q", s.Data)
	}
	t.Setenv("COVEY_NODE_DATA", dir)
	if s := decoded[admin.Status](t, "", "status"); s.Data != dir {
		t.Errorf("COVEY_NODE_DATA: got %q", s.Data)
	}
}

func TestCheckReportsDamage(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("COVEY_NODE_HOSTNAME", "mail.example.org")
	for _, name := range []string{"shards", "log"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	identity := "version = 1\nnode = \"00000000000000a1\"\ncluster = \"00112233445566778899aabbccddeeff\"\nshards = 1\nboot = 1\n"
	for name, content := range map[string]string{"node.toml": identity, "shards/0001.db": strings.Repeat("no database ", 1000)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := covey(t, "", "check", "--data", dir)
	if r.code != 1 || !strings.Contains(r.out, "shard 1: ") || !strings.Contains(r.err, "1 problems: do not delete anything") {
		t.Errorf("got %+v", r)
	}
}

// hash stands for a password in import files; the node does not look behind it.
const hash = "{SHA512-CRYPT}$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/"

func TestImport(t *testing.T) {
	dir := serve(t)
	ok(t, "", "domain", "add", "example.org", "--data", dir)
	var file strings.Builder
	const most = 2000
	for i := range most {
		fmt.Fprintf(&file, "user%04d@example.org %s\n", i, hash)
	}
	name := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(name, []byte(file.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"2000 added, 0 updated, 0 unchanged, 0 refused\n", "0 added, 0 updated, 2000 unchanged, 0 refused\n"} {
		if got := ok(t, "", "user", "import", name, "--data", dir); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	list := decoded[[]admin.User](t, "", "user", "list", "--data", dir) // two pages
	if len(list) != most || list[most-1].Address != "user1999@example.org" {
		t.Errorf("%d accounts after the import, want %d", len(list), most)
	}
}

func TestImportWithErrors(t *testing.T) {
	dir := serve(t)
	ok(t, "", "domain", "add", "example.org", "--data", dir)
	in := []string{
		"# comment", "", "good@example.org " + hash, "no password", "foreign@elsewhere.example " + hash,
		"long@example.org " + strings.Repeat("x", 3*maxImportLine), "latin@example.org caf\xe9", "tab@example.org\t" + hash,
		"colon@example.org:" + hash + "\r", "last@example.org " + hash,
	}
	r := covey(t, strings.Join(in, "\n"), "user", "import", "-", "--data", dir)
	if r.code != 1 || r.out != "4 added, 0 updated, 0 unchanged, 4 refused\n" {
		t.Errorf("status %d, %q\n%s", r.code, r.out, r.err)
	}
	for _, n := range []int{4, 5, 6, 7} {
		if !strings.Contains(r.err, fmt.Sprintf("line %d: ", n)) {
			t.Errorf("no word of line %d:\n%s", n, r.err)
		}
	}
	if !strings.Contains(r.err, "4 lines were refused: mend them and import the file again") {
		t.Errorf("does not say what to do:\n%s", r.err)
	}
}
