package peer

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
)

const (
	maxKeyFile = 4 << 10
	pemType    = "PRIVATE KEY"
)

// OpenKey returns the node's own key from its file (PKCS #8, PEM). If there is
// no such file it makes a key from random and writes it; the key is on stable
// storage before it is returned, since the directory will have it on record. It
// refuses a file that anybody may read.
func OpenKey(fsys durable.FS, path string, random io.Reader) (ed25519.PrivateKey, error) {
	key, err := readKey(fsys, path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(random, seed); err != nil {
		return nil, fmt.Errorf("make node key: %w", err)
	}
	key = ed25519.NewKeyFromSeed(seed)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make node key: %w", err)
	}
	data := pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der})
	if err := durable.WriteFile(fsys, path, data, privateMode); err != nil {
		return nil, fmt.Errorf("node key: %w", err)
	}
	return key, nil
}

func readKey(fsys durable.FS, path string) (ed25519.PrivateKey, error) {
	if err := checkPrivate(fsys, path, "node key"); err != nil {
		return nil, err
	}
	data, err := durable.ReadFile(fsys, path, maxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("node key: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != pemType {
		return nil, covey.Errorf(covey.Corrupt, "node key: %s has no PEM block %q", path, pemType)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, covey.Errorf(covey.Corrupt, "node key: %s: %w", path, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, covey.Errorf(covey.Corrupt, "node key: %s holds a %T, want an Ed25519 key", path, parsed)
	}
	return key, nil
}
