package password

import (
	"strings"

	"golang.org/x/crypto/bcrypt"

	"github.com/covey-mail/covey"
)

// maxBcryptCost bounds the cost a stored bcrypt hash may ask for: about five
// seconds.
const maxBcryptCost = 16

type bcryptHash []byte

// parseBcrypt reads $2y$05$ and 53 characters of salt and key. The variants 2a,
// 2b and 2y differ only in bugs of programs that made them long ago; as others
// do, no more than 72 octets of a password count.
func parseBcrypt(value, encoding string) (verifier, error) {
	if len(value) != 60 || encoding != "" || !isBcrypt(value) {
		return nil, covey.Errorf(covey.Invalid, "want $2y$05$ and 53 characters")
	}
	if strings.Trim(value[7:], "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789") != "" {
		return nil, covey.Errorf(covey.Invalid, "bcrypt: characters outside its alphabet")
	}
	cost, err := bcrypt.Cost([]byte(value))
	if err != nil {
		return nil, covey.Errorf(covey.Invalid, "%w", err)
	}
	if cost > maxBcryptCost {
		return nil, covey.Errorf(covey.Limit, "bcrypt cost %d is beyond %d", cost, maxBcryptCost)
	}
	return bcryptHash(value), nil
}

func isBcrypt(value string) bool {
	return strings.HasPrefix(value, "$2a$") || strings.HasPrefix(value, "$2b$") || strings.HasPrefix(value, "$2y$")
}

func (h bcryptHash) verify(password string) bool {
	return bcrypt.CompareHashAndPassword(h, []byte(password)) == nil
}

// parseCrypt reads what crypt(3) made, by its prefix.
func parseCrypt(value, encoding string) (verifier, error) {
	switch {
	case isBcrypt(value):
		return parseBcrypt(value, encoding)
	case strings.HasPrefix(value, "$6$"), strings.HasPrefix(value, "$5$"):
		return parseShaCrypt(value, encoding)
	}
	return nil, covey.Errorf(covey.Invalid, "only crypt hashes that start with $2y$, $5$ or $6$ are understood")
}
