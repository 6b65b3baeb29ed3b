// Package password hashes passwords and verifies them against the hashes that
// other mail servers left behind.
//
// A stored hash is written as Dovecot writes it, a scheme in braces before the
// value: {ARGON2ID}$argon2id$v=19$m=19456,t=2,p=1$salt$key. ARGON2ID, ARGON2I,
// BLF-CRYPT, SHA512-CRYPT, SHA256-CRYPT, CRYPT (of these kinds), SSHA, SSHA256 and
// SSHA512 are understood; the salted ones also with .HEX and .B64. New hashes are
// argon2id with 19 MiB, two passes and one lane, the first choice of OWASP's
// list.
//
// Hashes may come from strangers' databases, so that what one asks for in memory
// and time is bounded when it is parsed: 256 MiB, and 10,000,000 rounds of SHA
// crypt, cost 16 of bcrypt, and 4 GiB of memory passed over by argon2.
package password

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"

	"github.com/covey-mail/covey"
)

// Limits on what is hashed and stored, in octets.
const (
	MaxPassword = 1024
	MaxHash     = 512
)

// Costs of new hashes.
const (
	newMemory = 19 << 10 // KiB
	newPasses = 2
	newLanes  = 1
	newSalt   = 16
	newKey    = 32
)

// A verifier is a parsed hash.
type verifier interface {
	// verify reports whether password hashes to it. It takes as long for a wrong
	// password as for the right one.
	verify(password string) bool
}

// A scheme parses the value behind {NAME}.
type scheme struct {
	name  string
	parse func(value, encoding string) (verifier, error)
}

// schemes returns all schemes, in the order in which errors list them.
func schemes() []scheme {
	return []scheme{
		{"ARGON2ID", parseArgon2}, {"ARGON2I", parseArgon2},
		{"BLF-CRYPT", parseBcrypt},
		{"SHA512-CRYPT", parseShaCrypt}, {"SHA256-CRYPT", parseShaCrypt},
		{"CRYPT", parseCrypt},
		{"SSHA", parseSSHA}, {"SSHA256", parseSSHA256}, {"SSHA512", parseSSHA512},
	}
}

// Split takes apart a stored hash or, with {PLAIN} or {CLEARTEXT} or no scheme at
// all, a password in clear. A value that starts with a brace and does not close it
// is a password in clear.
func Split(s string) (scheme, value string, clear bool) {
	if !strings.HasPrefix(s, "{") {
		return "", s, true
	}
	name, value, ok := strings.Cut(s[1:], "}")
	if !ok {
		return "", s, true
	}
	name = strings.ToUpper(name)
	return name, value, name == "PLAIN" || name == "CLEARTEXT"
}

// Check reports whether hash is one that passwords can be verified against. The
// error is covey.Invalid, or covey.Limit if the hash asks for too much work.
func Check(hash string) error {
	_, err := parse(hash)
	return err
}

func parse(hash string) (verifier, error) {
	if len(hash) > MaxHash {
		return nil, covey.Errorf(covey.Invalid, "password hash longer than %d octets", MaxHash)
	}
	name, value, clear := Split(hash)
	if clear {
		return nil, covey.Errorf(covey.Invalid, "password hash has no {SCHEME}")
	}
	name, encoding, _ := strings.Cut(name, ".")
	var known []string
	for _, s := range schemes() {
		if s.name == name {
			v, err := s.parse(value, encoding)
			if err != nil {
				return nil, fmt.Errorf("password hash {%s}: %w", name, err)
			}
			return v, nil
		}
		known = append(known, s.name)
	}
	return nil, covey.Errorf(covey.Invalid, "password scheme %.20q is not one of %s", name, strings.Join(known, ", "))
}

// Acceptable reports why password cannot be set: it is empty, too long, or holds
// a NUL, which no mechanism can carry.
func Acceptable(password string) error {
	switch {
	case password == "":
		return covey.Errorf(covey.Invalid, "the password is empty")
	case len(password) > MaxPassword:
		return covey.Errorf(covey.Invalid, "the password is longer than %d octets", MaxPassword)
	case strings.IndexByte(password, 0) >= 0:
		return covey.Errorf(covey.Invalid, "the password holds a NUL character")
	}
	return nil
}

// newHash hashes password with a random salt.
func newHash(password string) string {
	salt := make([]byte, newSalt)
	rand.Read(salt) // never fails: crypto/rand ends the program instead
	return formatNew(salt, argon2.IDKey([]byte(password), salt, newPasses, newMemory, newLanes, newKey))
}

// Nobody returns a hash with the costs of new hashes that no password is known to
// match. Verifying against it takes as long as against a real one.
func Nobody() string {
	return formatNew(make([]byte, newSalt), make([]byte, newKey))
}

func formatNew(salt, key []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("{ARGON2ID}$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version,
		newMemory, newPasses, newLanes, b64.EncodeToString(salt), b64.EncodeToString(key))
}
