package password

import (
	"crypto/subtle"
	"encoding/base64"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"

	"github.com/covey-mail/covey"
)

// Bounds on the costs a stored argon2 hash may ask for.
const (
	maxMemory     = 256 << 10 // KiB
	maxMemoryTime = 4 << 20   // KiB times passes
	maxLanes      = 16
)

type argon2Hash struct {
	id             bool // argon2id, else argon2i
	memory, passes uint32
	lanes          uint8
	salt, key      []byte
}

// parseArgon2 reads the PHC string $argon2id$v=19$m=65536,t=3,p=1$salt$key.
func parseArgon2(value, encoding string) (verifier, error) {
	malformed := covey.Errorf(covey.Invalid, "want $argon2id$v=19$m=…,t=…,p=…$salt$key")
	f := strings.Split(value, "$")
	if len(f) != 6 || f[0] != "" || f[2] != "v=19" || encoding != "" {
		return nil, malformed
	}
	h := argon2Hash{id: f[1] == "argon2id"}
	if !h.id && f[1] != "argon2i" {
		return nil, malformed
	}
	if err := h.parseCosts(f[3]); err != nil {
		return nil, err
	}
	var err1, err2 error
	h.salt, err1 = base64.RawStdEncoding.DecodeString(f[4])
	h.key, err2 = base64.RawStdEncoding.DecodeString(f[5])
	if err1 != nil || err2 != nil || len(h.salt) < 8 || len(h.key) < 12 {
		return nil, malformed
	}
	return h, nil
}

func (h *argon2Hash) parseCosts(s string) error {
	var m, t, p uint64
	seen := 0
	for field := range strings.SplitSeq(s, ",") {
		name, digits, _ := strings.Cut(field, "=")
		n, err := strconv.ParseUint(digits, 10, 32)
		if err != nil {
			return covey.Errorf(covey.Invalid, "argon2 cost %q", field)
		}
		switch name {
		case "m":
			m = n
		case "t":
			t = n
		case "p":
			p = n
		default:
			return covey.Errorf(covey.Invalid, "argon2 cost %q", field)
		}
		seen++
	}
	if seen != 3 || m == 0 || t == 0 || p == 0 {
		return covey.Errorf(covey.Invalid, "argon2 costs %q: want m, t and p", s)
	}
	if m > maxMemory || m*t > maxMemoryTime || p > maxLanes {
		return covey.Errorf(covey.Limit, "argon2 costs %s are beyond m=%d, m*t=%d, p=%d", s, maxMemory, maxMemoryTime, maxLanes)
	}
	h.memory, h.passes, h.lanes = uint32(m), uint32(t), uint8(p)
	return nil
}

func (h argon2Hash) verify(password string) bool {
	derive := argon2.Key
	if h.id {
		derive = argon2.IDKey
	}
	key := derive([]byte(password), h.salt, h.passes, h.memory, h.lanes, uint32(len(h.key)))
	return subtle.ConstantTimeCompare(key, h.key) == 1
}
