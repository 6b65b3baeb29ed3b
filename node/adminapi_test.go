package node

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/node/admin"
)

const sha = "{SHA512-CRYPT}$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/"

// Every operation, in an order in which each has something to do.
func TestAdminOperations(t *testing.T) {
	n := run(t, onlySMTP(config(t.TempDir())))
	done := func(op string, req any) {
		t.Helper()
		call[admin.Done](t, n, op, req)
	}
	same := func(what string, want, got any) {
		t.Helper()
		if d := cmp.Diff(want, got, cmpopts.IgnoreFields(admin.User{}, "ID", "Shard", "Created", "Nodes", "Leader")); d != "" {
			t.Errorf("%s (-want +got):\n%s", what, d)
		}
	}
	password, hash, quota, def, yes := "secret", sha, int64(1<<20), int64(-1), true

	done(admin.DomainAdd, admin.Name{Name: "Example.ORG"})
	done(admin.DomainAdd, admin.Name{Name: "other.example"})
	u := call[admin.User](t, n, admin.UserAdd, admin.UserRequest{Address: "alice@example.org", Password: &password})
	if u.ID == 0 || u.Shard == 0 || u.Created.IsZero() {
		t.Errorf("new account %+v lacks a field", u)
	}
	same("user.add", admin.User{Address: "alice@example.org"}, u)
	u = call[admin.User](t, n, admin.UserAdd, admin.UserRequest{Address: "bob@example.org", Hash: &hash, Quota: &quota, Disabled: &yes})
	same("user.add with all", admin.User{Address: "bob@example.org", Quota: quota, Disabled: true}, u)
	u = call[admin.User](t, n, admin.UserSet, admin.UserRequest{Address: "bob@example.org", Password: &password, Quota: &def, Disabled: new(bool)})
	same("user.set", admin.User{Address: "bob@example.org"}, u)
	same("user.show", admin.User{Address: "bob@example.org"}, call[admin.User](t, n, admin.UserShow, admin.Name{Name: "BOB@example.org"}))
	res := call[admin.ImportResult](t, n, admin.UserImport, admin.ImportRequest{First: 11, Lines: []string{
		"carol@example.org " + sha, "# nobody", "dave@elsewhere.example " + sha, "bob@example.org " + sha,
	}})
	if len(res.Errors) != 1 || !strings.HasPrefix(res.Errors[0], "line 13: ") {
		t.Errorf("user.import: errors %q, want one of line 13", res.Errors)
	}
	res.Errors = nil
	same("user.import", admin.ImportResult{Added: 1, Updated: 1, Failed: 1}, res)
	list := call[[]admin.User](t, n, admin.UserList, admin.Page{Prefix: "b@example.org", Limit: 5})
	same("user.list of a prefix in a domain", []admin.User{{Address: "bob@example.org"}}, list)
	list = call[[]admin.User](t, n, admin.UserList, admin.Page{Prefix: "b@other.example"})
	same("user.list of a prefix that none has", []admin.User{}, list)
	list = call[[]admin.User](t, n, admin.UserList, admin.Page{After: "alice@example.org", Limit: 1})
	same("user.list", []admin.User{{Address: "bob@example.org"}}, list)

	done(admin.AliasAdd, admin.Alias{Address: "info@example.org", Targets: []string{"alice@example.org"}})
	done(admin.AliasAdd, admin.Alias{Address: "@other.example", Targets: []string{"bob@example.org"}})
	done(admin.AliasSet, admin.Alias{Address: "info@example.org", Targets: []string{"alice@example.org", "bob@example.org"}})
	same("alias.list", []admin.Alias{
		{Address: "info@example.org", Targets: []string{"alice@example.org", "bob@example.org"}},
		{Address: "@other.example", Targets: []string{"bob@example.org"}},
	}, call[[]admin.Alias](t, n, admin.AliasList, admin.Page{}))
	same("domain.list", []admin.Domain{
		{Name: "example.org", Accounts: 3, Aliases: 1}, {Name: "other.example", Aliases: 1},
	}, call[[]admin.Domain](t, n, admin.DomainList, admin.Empty{}))

	s := call[admin.Status](t, n, admin.NodeStatus, admin.Empty{})
	if !s.Ready || s.Node != n.folder.id.String() || s.Accounts != 3 || s.Domains != 2 || len(s.Shards) != 3 || s.Shards[0].Leader != s.Node {
		t.Errorf("status: %+v", s)
	}
	if c := call[admin.CheckResult](t, n, admin.NodeCheck, admin.Empty{}); len(c.Problems) > 0 || c.Shards != 2 {
		t.Errorf("check: %+v", c)
	}

	done(admin.AliasRemove, admin.Name{Name: "@other.example"})
	done(admin.AliasRemove, admin.Name{Name: "info@example.org"})
	done(admin.DomainRemove, admin.Name{Name: "other.example"})
	for _, name := range []string{"alice", "bob", "carol"} {
		done(admin.UserRemove, admin.Name{Name: name + "@example.org"})
	}
	done(admin.DomainRemove, admin.Name{Name: "example.org"})
	same("domain.list at the end", []admin.Domain{}, call[[]admin.Domain](t, n, admin.DomainList, admin.Empty{}))
}

func TestAdminErrorsKeepTheirKind(t *testing.T) {
	n := withUsers(t, onlySMTP(config(t.TempDir())))
	password, hash, bad := "secret", sha, "no scheme"
	for _, tt := range []struct {
		op   string
		req  any
		kind covey.Kind
	}{
		{admin.DomainAdd, admin.Name{Name: "example.org"}, covey.Exists},
		{admin.DomainAdd, admin.Name{Name: "not a domain"}, covey.Invalid},
		{admin.DomainRemove, admin.Name{Name: "example.org"}, covey.Denied},
		{admin.DomainRemove, admin.Name{Name: "none.example"}, covey.NotFound},
		{admin.UserAdd, admin.UserRequest{Address: "alice@example.org", Password: &password}, covey.Exists},
		{admin.UserAdd, admin.UserRequest{Address: "alice", Password: &password}, covey.Invalid},
		{admin.UserAdd, admin.UserRequest{Address: "new@example.org"}, covey.Invalid},
		{admin.UserAdd, admin.UserRequest{Address: "new@example.org", Hash: &bad}, covey.Invalid},
		{admin.UserAdd, admin.UserRequest{Address: "new@example.org", Hash: &hash, Password: &password}, covey.Invalid},
		{admin.UserSet, admin.UserRequest{Address: "new@example.org", Password: &password}, covey.NotFound},
		{admin.UserShow, admin.Name{Name: "new@example.org"}, covey.NotFound},
		{admin.UserRemove, admin.Name{Name: "new@example.org"}, covey.NotFound},
		{admin.UserList, admin.Page{After: "alice"}, covey.Invalid},
		{admin.UserImport, admin.ImportRequest{Lines: make([]string, maxImportLines+1)}, covey.TooBig},
		{admin.AliasAdd, admin.Alias{Address: "x@example.org", Targets: []string{"y"}}, covey.Invalid},
		{admin.AliasRemove, admin.Name{Name: "x@example.org"}, covey.NotFound},
		{"no.such.operation", admin.Empty{}, covey.Internal},
		{admin.DomainAdd, map[string]string{"name": "a.example", "colour": "red"}, covey.Invalid},
		{admin.DomainAdd, admin.Name{Name: strings.Repeat("x", admin.MaxRequest)}, covey.TooBig},
	} {
		_, err := try[any](t, n, tt.op, tt.req)
		if err == nil || covey.KindOf(err) != tt.kind {
			t.Errorf("%s %.100v: got %v, want %v", tt.op, tt.req, err, tt.kind)
		}
	}
	if s := call[admin.Status](t, n, admin.NodeStatus, admin.Empty{}); s.Domains != 1 || s.Accounts != 2 {
		t.Errorf("%d domains, %d accounts after errors alone; want 1, 2", s.Domains, s.Accounts)
	}
}

func TestAdminSocketIsPrivate(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	writeFile(t, "left by a crash", dir, admin.SocketName)
	l, err := listenPrivate(dir, admin.SocketName)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(filepath.Join(dir, admin.SocketName))
	if err != nil || st.Mode() != os.ModeSocket|0o600 {
		t.Errorf("socket: mode %v, %v; want 0600", st.Mode(), err)
	}
	c, err := net.Dial("unix", filepath.Join(dir, admin.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); len(left) != 0 || err != nil {
		t.Errorf("left in the folder: %v, %v", left, err)
	}
	deep := filepath.Join(dir, strings.Repeat("d", 120))
	if _, err := listenPrivate(deep, admin.SocketName); !errors.Is(err, covey.Invalid) {
		t.Errorf("path too long: got %v, want Invalid", err)
	}
}

func TestNoNodeToSpeakTo(t *testing.T) {
	dir := t.TempDir()
	c := admin.NewClient(dir)
	defer c.Close()
	_, err := admin.Call[admin.Status](t.Context(), c, admin.NodeStatus, admin.Empty{})
	if !errors.Is(err, covey.Unavailable) || !strings.Contains(err.Error(), "covey serve --data "+dir) {
		t.Errorf("no socket: got %v", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, admin.SocketName), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	_, err = admin.Call[admin.Status](t.Context(), c, admin.NodeStatus, admin.Empty{})
	if !errors.Is(err, covey.Unavailable) || !strings.Contains(err.Error(), "left over") {
		t.Errorf("socket left over: got %v", err)
	}
}

// What runs for an operator ends with the node, and before its states do.
func TestStopEndsAdminCalls(t *testing.T) {
	l, err := listenPrivate(t.TempDir(), "s")
	if err != nil {
		t.Fatal(err)
	}
	begun, ended := make(chan struct{}), make(chan struct{})
	h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
		close(ended)
	})
	var log logBuffer
	s := serveHTTP(l, h, log.logger())
	c, err := net.Dial("unix", l.(*privateSocket).path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-begun
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	select {
	case <-ended:
	default:
		t.Error("stop did not wait for the request")
	}
	if _, err := net.Dial("unix", l.(*privateSocket).path); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("after stop: got %v, want no socket", err)
	}
	if log.String() != "" {
		t.Errorf("logged: %s", log.String())
	}
}
