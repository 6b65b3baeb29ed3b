package main

import (
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"strings"
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

// userLines are the accounts as covey user import takes them.
func userLines(accounts []account) string {
	var lines strings.Builder
	for _, a := range accounts {
		fmt.Fprintf(&lines, "%s %s\n", a.address, a.hash)
	}
	return lines.String()
}
