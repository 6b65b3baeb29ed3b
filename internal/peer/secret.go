package peer

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
)

// A Secret is all that the nodes of a cluster share. Who has it is trusted with
// everything; it prints as "(secret)".
type Secret [secretSize]byte

const (
	secretSize     = 32
	maxSecrets     = 2
	maxSecretsFile = 4 << 10

	// Different keys for different uses: one that leaks does not give the others.
	// The numbers change if ever the use of a key does.
	gossipInfo = "covey gossip 1"
	caInfo     = "covey cluster CA 1"
	printInfo  = "covey fingerprint 1"
)

// NewSecret makes a secret of 32 octets of random.
func NewSecret(random io.Reader) (Secret, error) {
	var s Secret
	if _, err := io.ReadFull(random, s[:]); err != nil {
		return Secret{}, fmt.Errorf("make cluster secret: %w", err)
	}
	return s, nil
}

// String hides the secret from logs.
func (s Secret) String() string { return "(secret)" }

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return s.String() }

// MarshalText hides the secret from JSON and slog.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// GossipKey returns the key that encrypts gossip, 32 octets.
func (s Secret) GossipKey() []byte { return s.derive(gossipInfo) }

// Fingerprint returns eight hexadecimal digits that tell secrets apart and do not
// help to find them.
func (s Secret) Fingerprint() string { return hex.EncodeToString(s.derive(printInfo)[:4]) }

// caKey returns the key of the cluster's certificate authority.
func (s Secret) caKey() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(s.derive(caInfo))
}

func (s Secret) derive(info string) []byte {
	key, err := hkdf.Key(sha256.New, s[:], nil, info, 32)
	if err != nil { // only for more than 255 blocks, or a hash FIPS 140 forbids
		panic(err)
	}
	return key
}

// ReadSecrets reads a file of one secret a line, 64 hexadecimal digits; empty
// lines and those that begin with # do not count. The first is the one in use,
// the second, if there is one, is valid too. It refuses a file that anybody may
// read, or that others than its owner may write.
func ReadSecrets(fsys durable.FS, path string) ([]Secret, error) {
	if err := checkPrivate(fsys, path, "cluster secret"); err != nil {
		return nil, err
	}
	data, err := durable.ReadFile(fsys, path, maxSecretsFile)
	if err != nil {
		return nil, fmt.Errorf("cluster secret: %w", err)
	}
	secrets, err := parseSecrets(data)
	if err != nil {
		return nil, covey.Errorf(covey.Invalid, "cluster secret: %s: %w", path, err)
	}
	return secrets, nil
}

// parseSecrets never quotes what it reads: it may be most of a secret.
func parseSecrets(data []byte) ([]Secret, error) {
	var secrets []Secret
	number := 0
	for line := range bytes.Lines(data) {
		number++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		var s Secret
		if len(line) != hex.EncodedLen(secretSize) {
			return nil, fmt.Errorf("line %d has %d characters: want 64 hexadecimal digits", number, len(line))
		}
		if _, err := hex.Decode(s[:], line); err != nil {
			return nil, fmt.Errorf("line %d: want 64 hexadecimal digits", number)
		}
		secrets = append(secrets, s)
		if err := checkSecrets(secrets); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
	}
	if len(secrets) == 0 {
		return nil, fmt.Errorf("no secret in it: want a line of 64 hexadecimal digits")
	}
	return secrets, nil
}

// checkSecrets checks the last of secrets against the others.
func checkSecrets(secrets []Secret) error {
	last := secrets[len(secrets)-1]
	switch {
	case len(secrets) > maxSecrets:
		return fmt.Errorf("more than %d secrets: take out the one that no node uses any more", maxSecrets)
	case last == Secret{}:
		return fmt.Errorf("a secret of zeros")
	case len(secrets) == maxSecrets && last == secrets[0]:
		return fmt.Errorf("the same secret twice")
	}
	return nil
}

// WriteSecrets replaces the file by one that ReadSecrets reads and nobody else
// than its owner. When it returns nil, the file is on stable storage.
func WriteSecrets(fsys durable.FS, path string, secrets []Secret) error {
	var b bytes.Buffer
	b.WriteString("# Secret of a Covey cluster. Who has it can read and change all mail.\n")
	for i := range secrets {
		if err := checkSecrets(secrets[:i+1]); err != nil {
			return covey.Errorf(covey.Invalid, "cluster secret: %w", err)
		}
		fmt.Fprintf(&b, "%s\n", hex.EncodeToString(secrets[i][:]))
	}
	if len(secrets) == 0 {
		return covey.Errorf(covey.Invalid, "cluster secret: none given")
	}
	return durable.WriteFile(fsys, path, b.Bytes(), privateMode)
}

// privateMode is that of files with secrets in them.
const privateMode os.FileMode = 0o600

// checkPrivate refuses a file that others may read, or a group may change. A
// group may read: that is how container platforms hand secrets to a process that
// is not root.
func checkPrivate(fsys durable.FS, path, what string) error {
	info, err := fsys.Stat(path)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if mode := info.Mode().Perm(); mode&0o027 != 0 {
		return covey.Errorf(covey.Denied,
			"%s: %s has mode %04o, so that others may read or change it: chmod 600 %s (in Kubernetes: defaultMode: 0440)",
			what, path, mode, path)
	}
	return nil
}
