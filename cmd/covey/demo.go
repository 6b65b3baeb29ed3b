package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/covey-mail/covey/node"
	"github.com/covey-mail/covey/node/admin"
)

type demoCmd struct {
	Keep string `help:"Keep the data in this folder instead of a temporary one." placeholder:"DIR"`
	Log  bool   `help:"Show the node's log."`
}

// Names of the demo. The password is for a node on loopback that lives as long as
// the command.
const (
	demoDomain   = "example.org"
	demoPassword = "covey"
	demoOffset   = 10000
)

// Run runs a node with two accounts until ctx ends.
func (c *demoCmd) Run(ctx context.Context, io stdio) (err error) {
	dir := c.Keep
	if dir == "" {
		if dir, err = os.MkdirTemp("", "covey-demo-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	cfg := demoConfig(dir)
	cfg.Version, cfg.Files = version, openFiles()
	if c.Log {
		log, flush := logger(io.err, false)
		defer flush()
		cfg.Logger = log
	}
	n, err := node.Start(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Stop()) }()
	if err := demoAccounts(ctx, dir); err != nil {
		return err
	}
	if err := c.help(io, dir, n.Listening()); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		fmt.Fprintln(io.out, "\nstopping")
	case <-n.Failed():
	}
	return nil
}

// demoConfig is a small node on loopback: ports as usual plus 10,000 where they
// are free, any where they are not.
func demoConfig(dir string) node.Config {
	cfg := node.DefaultConfig(dir, demoOffset)
	cfg.Node.Hostname = "mail." + demoDomain
	cfg.Cluster.Shards = 4
	l := &cfg.Listen
	for _, list := range []*[]string{
		&l.SMTP, &l.Submission, &l.Submissions, &l.LMTP, &l.IMAP, &l.IMAPS, &l.POP3, &l.POP3S, &l.Metrics,
	} {
		for i, addr := range *list {
			(*list)[i] = freeOnLoopback(addr)
		}
	}
	l.Peer, l.Gossip = nil, nil // nobody will join
	return cfg
}

func freeOnLoopback(addr string) string {
	if strings.HasPrefix(addr, "unix:") {
		return addr
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	addr = net.JoinHostPort("127.0.0.1", port)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return "127.0.0.1:0"
	}
	l.Close()
	return addr
}

// demoAccounts makes what the demo needs; in a kept folder it may be there.
func demoAccounts(ctx context.Context, dir string) error {
	c := admin.NewClient(dir)
	defer c.Close()
	domains, err := admin.Call[[]admin.Domain](ctx, c, admin.DomainList, admin.Empty{})
	if err != nil || len(domains) > 0 {
		return err
	}
	if _, err := admin.Call[admin.Done](ctx, c, admin.DomainAdd, admin.Name{Name: demoDomain}); err != nil {
		return err
	}
	password := demoPassword
	for _, name := range []string{"alice", "bob"} {
		req := admin.UserRequest{Address: name + "@" + demoDomain, Password: &password}
		if _, err := admin.Call[admin.User](ctx, c, admin.UserAdd, req); err != nil {
			return err
		}
	}
	return nil
}

// self is how the reader of the demo's lines can run this program again.
func self() string {
	if strings.Contains(os.Args[0], "go-build") {
		return "go run ./cmd/covey"
	}
	return os.Args[0]
}

const demoText = `Covey runs. Accounts: alice@{{.Domain}} and bob@{{.Domain}}, password {{.Password}}. Data: {{.Dir}}

Send alice a message:
  printf 'From: bob@{{.Domain}}\nTo: alice@{{.Domain}}\nSubject: Hello\n\nFirst mail.\n' |
    curl -sS smtp://{{.At.smtp}} --crlf --mail-from bob@{{.Domain}} --mail-rcpt alice@{{.Domain}} --upload-file -
  swaks --server {{.At.smtp}} --from bob@{{.Domain}} --to alice@{{.Domain}}
  swaks --server {{.At.submission}} --tls --auth PLAIN --auth-user bob@{{.Domain}} --auth-password {{.Password}} \
    --from bob@{{.Domain}} --to alice@{{.Domain}}

Read it:
  curl -sS -u alice@{{.Domain}}:{{.Password}} 'imap://{{.At.imap}}/INBOX;MAILINDEX=1'
  curl -sSk -u alice@{{.Domain}}:{{.Password}} imaps://{{.At.imaps}}/
  curl -sS -u alice@{{.Domain}}:{{.Password}} pop3://{{.At.pop3}}/1
  mutt -f 'imap://alice%40{{.Domain}}:{{.Password}}@{{.At.imap}}/INBOX'

Look inside:
  {{.Self}} status --data {{.Dir}}
  curl -sS http://{{.At.metrics}}/metrics

Ctrl-C ends it{{if .Gone}}, and removes the data{{end}}.
`

func (c *demoCmd) help(io stdio, dir string, listening []node.Listening) error {
	at := make(map[string]string)
	for _, l := range listening {
		if at[l.Service] == "" {
			at[l.Service] = l.Address
		}
	}
	t, err := template.New("demo").Parse(demoText)
	if err != nil {
		return err
	}
	return t.Execute(io.out, map[string]any{
		"Domain": demoDomain, "Password": demoPassword, "Dir": dir, "At": at,
		"Self": self(), "Gone": c.Keep == "",
	})
}
