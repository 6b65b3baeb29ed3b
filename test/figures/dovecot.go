package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"
	"text/template"
)

//go:embed dovecot.conf
var dovecotConf string

const dovecotBin = "/usr/sbin/dovecot"

// startDovecot starts Dovecot on loopback with the accounts, its data below dir.
func startDovecot(ctx context.Context, dir string, accounts []account) (*server, error) {
	for _, bin := range []string{dovecotBin, "/usr/lib/dovecot/lmtp", "/usr/lib/dovecot/imap", "/usr/lib/dovecot/pop3"} {
		if !executable(bin) {
			return nil, errors.New(bin + " is missing: install dovecot-core, dovecot-imapd, dovecot-pop3d and dovecot-lmtpd")
		}
	}
	owner, err := mailOwner()
	if err != nil {
		return nil, err
	}
	addr := make(map[string]string)
	settings := map[string]any{
		"Dir": dir, "CPUs": runtime.NumCPU(), "User": owner.Username, "Group": groupName(owner), "Unprivileged": os.Geteuid() != 0,
	}
	for _, p := range []string{"imap", "pop3", "lmtp"} {
		if addr[p], err = freeAddr(); err != nil {
			return nil, err
		}
		_, settings[strings.ToUpper(p)], _ = net.SplitHostPort(addr[p])
	}
	conf, err := writeDovecot(dir, settings, owner, accounts)
	if err != nil {
		return nil, err
	}
	s, err := launch(ctx, "dovecot", exec.Command(dovecotBin, "-F", "-c", conf), addr)
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "dovecot.log"))
		return nil, fmt.Errorf("%w\n%s", err, log)
	}
	s.dir = dir
	return s, nil
}

// writeDovecot writes the configuration and the accounts and returns the path of
// the first.
func writeDovecot(dir string, settings map[string]any, owner *user.User, accounts []account) (string, error) {
	mail := filepath.Join(dir, "mail")
	for _, d := range []string{dir, mail, filepath.Join(dir, "run"), filepath.Join(dir, "state")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return "", err
		}
	}
	if os.Geteuid() == 0 {
		uid, gid, err := ids(owner)
		if err != nil {
			return "", err
		}
		if err := os.Chown(mail, uid, gid); err != nil {
			return "", err
		}
	}
	var users strings.Builder
	for _, a := range accounts {
		fmt.Fprintf(&users, "%s:%s:%s:%s::%s/%s\n", a.address, a.hash, owner.Uid, owner.Gid, mail, a.address)
	}
	if err := os.WriteFile(filepath.Join(dir, "users"), []byte(users.String()), 0o644); err != nil {
		return "", err
	}
	conf := filepath.Join(dir, "dovecot.conf")
	f, err := os.Create(conf)
	if err != nil {
		return "", err
	}
	err = template.Must(template.New("dovecot").Parse(dovecotConf)).Execute(f, settings)
	return conf, errors.Join(err, f.Close())
}

// mailOwner is who the mail belongs to: the user mail, which every Debian has, or
// without root whoever runs this.
func mailOwner() (*user.User, error) {
	if os.Geteuid() != 0 {
		return user.Current()
	}
	return user.Lookup("mail")
}

func groupName(u *user.User) string {
	g, err := user.LookupGroupId(u.Gid)
	if err != nil {
		return u.Gid
	}
	return g.Name
}

func ids(u *user.User) (uid, gid int, err error) {
	if _, err := fmt.Sscan(u.Uid, &uid); err != nil {
		return 0, 0, fmt.Errorf("user id %q: %w", u.Uid, err)
	}
	if _, err := fmt.Sscan(u.Gid, &gid); err != nil {
		return 0, 0, fmt.Errorf("group id %q: %w", u.Gid, err)
	}
	return uid, gid, nil
}
