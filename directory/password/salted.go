package password

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"hash"

	"github.com/covey-mail/covey"
)

// maxSalt bounds the salt of a salted hash, in octets.
const maxSalt = 64

// A salted hash is one pass of SHA over password and salt, as LDAP servers keep
// it. The salt stands behind the digest.
type salted struct {
	new  func() hash.Hash
	sum  []byte
	salt []byte
}

func parseSSHA(value, encoding string) (verifier, error) {
	return parseSalted(value, encoding, sha1.New)
}

func parseSSHA256(value, encoding string) (verifier, error) {
	return parseSalted(value, encoding, sha256.New)
}

func parseSSHA512(value, encoding string) (verifier, error) {
	return parseSalted(value, encoding, sha512.New)
}

// parseSalted reads base64 or, with encoding HEX, hexadecimal digits.
func parseSalted(value, encoding string, newHash func() hash.Hash) (verifier, error) {
	var raw []byte
	var err error
	switch encoding {
	case "", "B64", "BASE64":
		raw, err = decodeBase64(value)
	case "HEX":
		raw, err = hex.DecodeString(value)
	default:
		return nil, covey.Errorf(covey.Invalid, "encoding .%.8s is not HEX or B64", encoding)
	}
	if err != nil {
		return nil, covey.Errorf(covey.Invalid, "value is not base64 or hexadecimal")
	}
	size := newHash().Size()
	if len(raw) <= size || len(raw) > size+maxSalt {
		return nil, covey.Errorf(covey.Invalid, "want a digest of %d octets and a salt of 1 to %d", size, maxSalt)
	}
	return salted{newHash, raw[:size], raw[size:]}, nil
}

// decodeBase64 takes base64 with or without padding.
func decodeBase64(s string) ([]byte, error) {
	if raw, err := base64.StdEncoding.DecodeString(s); err == nil {
		return raw, nil
	}
	return base64.RawStdEncoding.DecodeString(s)
}

func (h salted) verify(password string) bool {
	d := h.new()
	d.Write([]byte(password))
	d.Write(h.salt)
	return subtle.ConstantTimeCompare(d.Sum(nil), h.sum) == 1
}
