package node

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"sync"
	"time"

	"github.com/covey-mail/covey/internal/durable"
)

// certs hands out the node's certificate. A file that was replaced (a renewal)
// is read again, at most once a minute.
type certs struct {
	fs        durable.FS
	cert, key string
	now       func() time.Time
	log       *slog.Logger

	mu      sync.Mutex // guards the following fields
	current *tls.Certificate
	modTime time.Time
	checked time.Time
}

// openCerts loads the configured certificate, or the self-signed one of the
// folder, which is made once.
func openCerts(f *folder, cfg Config, log *slog.Logger) (*certs, error) {
	c := &certs{fs: f.fs, cert: cfg.TLS.Cert, key: cfg.TLS.Key, now: time.Now, log: log}
	if c.cert == "" {
		c.cert, c.key = f.path("tls", "cert.pem"), f.path("tls", "key.pem")
		if _, err := f.fs.Stat(c.cert); errors.Is(err, os.ErrNotExist) {
			if err := c.makeSelfSigned(f, cfg.Node.Hostname); err != nil {
				return nil, fmt.Errorf("make self-signed certificate: %w", err)
			}
		}
	}
	if err := c.loadLocked(); err != nil {
		return nil, fmt.Errorf("[tls] cert %s, key %s: %w", c.cert, c.key, err)
	}
	return c, nil
}

// config returns the TLS configuration of the mail listeners.
func (c *certs) config() *tls.Config {
	return &tls.Config{GetCertificate: c.get, MinVersion: tls.VersionTLS12}
}

func (c *certs) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.now(); now.Sub(c.checked) > time.Minute {
		c.checked = now
		if st, err := c.fs.Stat(c.cert); err == nil && !st.ModTime().Equal(c.modTime) {
			// A renewal half written stays with the old pair until it is whole.
			if err := c.loadLocked(); err != nil {
				c.log.Warn("replaced certificate cannot be read; the old one stays in use", "file", c.cert, "err", err)
			}
		}
	}
	return c.current, nil
}

func (c *certs) loadLocked() error {
	const most = 1 << 20 // bytes of a file
	st, err := c.fs.Stat(c.cert)
	if err != nil {
		return err
	}
	cert, err := durable.ReadFile(c.fs, c.cert, most)
	if err != nil {
		return err
	}
	key, err := durable.ReadFile(c.fs, c.key, most)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return err
	}
	c.current, c.modTime, c.checked = &pair, st.ModTime(), c.now()
	return nil
}

// makeSelfSigned writes the key first: a certificate without its key would be
// taken for a whole pair at the next start.
func (c *certs) makeSelfSigned(f *folder, host string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return err
	}
	const years = 10
	t := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: host, Organization: []string{"Covey (self-signed)"}},
		DNSNames:     []string{host, "localhost"},
		NotBefore:    c.now().Add(-time.Hour), NotAfter: c.now().AddDate(years, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return err
	}
	pk, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := f.fs.MkdirAll(f.path("tls"), 0o700); err != nil {
		return err
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pk})
	if err := durable.WriteFile(f.fs, c.key, keyPEM, 0o600); err != nil {
		return err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return durable.WriteFile(f.fs, c.cert, certPEM, 0o644)
}
