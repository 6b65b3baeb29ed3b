package password

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"github.com/xdg-go/stringprep"

	"github.com/covey-mail/covey"
)

// ScramIterations is the cost of new SCRAM verifiers, the least that RFC 7677
// section 4 allows: the client pays it at every log-in.
const ScramIterations = 4096

// ScramSalt is the length of a SCRAM salt in octets.
const ScramSalt = 16

// A Scram is what a server keeps of a password for SCRAM-SHA-256 (RFC 5802
// section 3, RFC 7677).
type Scram struct {
	Iterations int
	Salt       []byte
	StoredKey  []byte
	ServerKey  []byte
}

// String returns the form in which Dovecot keeps it, scheme and all:
// {SCRAM-SHA-256}4096,salt,StoredKey,ServerKey in base64.
func (s Scram) String() string {
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("{SCRAM-SHA-256}%d,%s,%s,%s", s.Iterations, b64(s.Salt), b64(s.StoredKey), b64(s.ServerKey))
}

// ParseScram is the inverse of Scram.String. Between 4,096 and 1,000,000
// iterations are taken.
func ParseScram(s string) (Scram, error) {
	malformed := covey.Errorf(covey.Invalid, "SCRAM verifier: want {SCRAM-SHA-256}iterations,salt,key,key")
	value, ok := strings.CutPrefix(s, "{SCRAM-SHA-256}")
	f := strings.Split(value, ",")
	if !ok || len(s) > MaxHash || len(f) != 4 {
		return Scram{}, malformed
	}
	n, err := strconv.Atoi(f[0])
	if err != nil || n < ScramIterations || n > 1_000_000 {
		return Scram{}, malformed
	}
	v := Scram{Iterations: n}
	for i, p := range []*[]byte{&v.Salt, &v.StoredKey, &v.ServerKey} {
		if *p, err = base64.StdEncoding.DecodeString(f[i+1]); err != nil {
			return Scram{}, malformed
		}
	}
	if len(v.Salt) == 0 || len(v.StoredKey) != sha256.Size || len(v.ServerKey) != sha256.Size {
		return Scram{}, malformed
	}
	return v, nil
}

// newScram makes a verifier with a random salt.
func newScram(password string) Scram {
	salt := make([]byte, ScramSalt)
	rand.Read(salt)
	return deriveScram(password, salt, ScramIterations)
}

// deriveScram prepares the password as clients do (SASLprep, RFC 4013); one that
// the profile forbids is taken as it is.
func deriveScram(password string, salt []byte, iterations int) Scram {
	if p, err := stringprep.SASLprep.Prepare(password); err == nil {
		password = p
	}
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		panic(fmt.Errorf("derive SCRAM keys: %w", err)) // only for lengths and FIPS rules that these constants keep
	}
	mac := func(text string) []byte {
		h := hmac.New(sha256.New, salted)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	stored := sha256.Sum256(mac("Client Key"))
	return Scram{Iterations: iterations, Salt: salt, StoredKey: stored[:], ServerKey: mac("Server Key")}
}
