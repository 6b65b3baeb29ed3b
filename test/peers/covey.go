package main

import (
	"context"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/covey-mail/covey/test/process"
)

// account is a mailbox that every server has, with the same hash of the same
// password: its local part.
type account struct{ address, hash string }

const domain = "example.org"

// makeAccounts returns count accounts name00000@example.org and so on. The scheme
// is one that both servers verify at each log-in and that costs next to nothing,
// so that the sessions are measured and not the hash.
func makeAccounts(name string, count int) []account {
	list := make([]account, count)
	for i := range list {
		local := fmt.Sprintf("%s%05d", name, i)
		salt := fmt.Sprintf("%08d", i)
		sum := sha512.Sum512([]byte(local + salt))
		list[i] = account{local + "@" + domain, "{SSHA512}" + base64.StdEncoding.EncodeToString(append(sum[:], salt...))}
	}
	return list
}

// startCovey starts one node with the accounts, its data below dir. All is as by
// default but the number of connections from one address.
func startCovey(ctx context.Context, bin, dir string, accounts []account) (*server, error) {
	n, err := process.Launch(bin, dir, "COVEY_LIMITS_PER_ADDRESS=2000")
	if err != nil {
		return nil, err
	}
	stop := func() {
		if n.Stop() != nil {
			n.Kill()
		}
	}
	var lines strings.Builder
	for _, a := range accounts {
		fmt.Fprintf(&lines, "%s %s\n", a.address, a.hash)
	}
	if _, err = n.Covey(ctx, "", "domain", "add", domain); err == nil {
		_, err = n.Covey(ctx, lines.String(), "user", "import", "-")
	}
	if err != nil {
		stop()
		return nil, err
	}
	addr := make(map[string]string)
	for _, p := range []string{"smtp", "lmtp", "pop3", "imap"} {
		addr[p] = n.Addr(p)
	}
	return &server{name: "covey", pid: n.PID(), addr: addr, stop: stop}, nil
}
