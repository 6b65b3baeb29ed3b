package password

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"hash"
	"strconv"
	"strings"

	"github.com/covey-mail/covey"
)

// Rounds of SHA crypt. What is asked for below the least is raised to it, as the
// specification says (https://www.akkadia.org/drepper/SHA-crypt.txt).
const (
	defaultRounds = 5000
	leastRounds   = 1000
	maxRounds     = 10_000_000
	maxShaSalt    = 16
)

// A shaCrypt is a SHA-256 or SHA-512 crypt hash.
type shaCrypt struct {
	kind   shaKind
	rounds int
	salt   string
	key    string // as encoded
}

// A shaKind is what differs between the two.
type shaKind struct {
	new    func() hash.Hash
	encode func(sum []byte) string
	length int // of the encoded key
}

func sha512Kind() shaKind { return shaKind{sha512.New, encode512, 86} }
func sha256Kind() shaKind { return shaKind{sha256.New, encode256, 43} }

// parseShaCrypt reads $6$rounds=5000$salt$key and, for SHA-256, $5$….
func parseShaCrypt(value, encoding string) (verifier, error) {
	h := shaCrypt{rounds: defaultRounds}
	rest, is512 := strings.CutPrefix(value, "$6$")
	h.kind = sha512Kind()
	if !is512 {
		var is256 bool
		if rest, is256 = strings.CutPrefix(value, "$5$"); !is256 || encoding != "" {
			return nil, covey.Errorf(covey.Invalid, "want $6$salt$key or $5$salt$key")
		}
		h.kind = sha256Kind()
	}
	if digits, ok := strings.CutPrefix(rest, "rounds="); ok {
		digits, after, _ := strings.Cut(digits, "$")
		n, err := strconv.ParseUint(digits, 10, 32)
		if err != nil {
			return nil, covey.Errorf(covey.Invalid, "rounds %.12q", digits)
		}
		if n > maxRounds {
			return nil, covey.Errorf(covey.Limit, "%d rounds are beyond %d", n, maxRounds)
		}
		h.rounds, rest = max(int(n), leastRounds), after
	}
	var ok bool
	h.salt, h.key, ok = strings.Cut(rest, "$")
	if !ok || encoding != "" || len(h.key) != h.kind.length || strings.Trim(h.key, cryptAlphabet) != "" {
		return nil, covey.Errorf(covey.Invalid, "want $6$salt$key or $5$salt$key")
	}
	h.salt = h.salt[:min(len(h.salt), maxShaSalt)]
	return h, nil
}

func (h shaCrypt) verify(password string) bool {
	key := h.derive([]byte(password))
	return subtle.ConstantTimeCompare([]byte(key), []byte(h.key)) == 1
}

// derive follows the specification's steps, whose numbers stand beside.
func (h shaCrypt) derive(password []byte) string {
	salt := []byte(h.salt)
	sum := h.initial(password, salt)
	p := h.repeat(password, len(password), len(password)) // 13–16
	s := h.repeat(salt, 16+int(sum[0]), len(salt))        // 17–20
	d := h.kind.new()
	for i := range h.rounds { // 21
		d.Reset()
		if i%2 == 1 {
			d.Write(p)
		} else {
			d.Write(sum)
		}
		if i%3 != 0 {
			d.Write(s)
		}
		if i%7 != 0 {
			d.Write(p)
		}
		if i%2 == 1 {
			d.Write(sum)
		} else {
			d.Write(p)
		}
		sum = d.Sum(sum[:0])
	}
	return h.kind.encode(sum)
}

// initial returns digest A (steps 1–12).
func (h shaCrypt) initial(password, salt []byte) []byte {
	d := h.kind.new()
	d.Write(password) // 4–8
	d.Write(salt)
	d.Write(password)
	b := d.Sum(nil)
	d.Reset()
	d.Write(password) // 1–3
	d.Write(salt)
	d.Write(stretch(b, len(password))) // 9, 10
	for n := len(password); n > 0; n >>= 1 {
		if n&1 == 1 { // 11
			d.Write(b)
		} else {
			d.Write(password)
		}
	}
	return d.Sum(nil)
}

// repeat hashes p times over and stretches the digest to length octets.
func (h shaCrypt) repeat(p []byte, times, length int) []byte {
	d := h.kind.new()
	for range times {
		d.Write(p)
	}
	return stretch(d.Sum(nil), length)
}

// stretch repeats b up to n octets.
func stretch(b []byte, n int) []byte {
	out := make([]byte, 0, n+len(b))
	for len(out) < n {
		out = append(out, b...)
	}
	return out[:n]
}

const cryptAlphabet = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// encode512 writes 64 octets in the order that step 22 prescribes.
func encode512(sum []byte) string {
	out := make([]byte, 0, 86)
	a, b, c := 0, 21, 42
	for range 21 {
		out = append24(out, sum[a], sum[b], sum[c], 4)
		a, b, c = b+1, c+1, a+1
	}
	return string(append24(out, 0, 0, sum[63], 2))
}

// encode256 is the same for 32 octets.
func encode256(sum []byte) string {
	out := make([]byte, 0, 43)
	a, b, c := 0, 10, 20
	for range 10 {
		out = append24(out, sum[a], sum[b], sum[c], 4)
		a, b, c = c+1, a+1, b+1
	}
	return string(append24(out, 0, sum[31], sum[30], 3))
}

// append24 appends n characters of six bits each, the lowest first.
func append24(out []byte, b2, b1, b0 byte, n int) []byte {
	w := uint32(b2)<<16 | uint32(b1)<<8 | uint32(b0)
	for range n {
		out = append(out, cryptAlphabet[w&0x3f])
		w >>= 6
	}
	return out
}
