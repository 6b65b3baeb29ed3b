package node

import (
	"bytes"
	"crypto/x509"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/covey-mail/covey/internal/durable"
)

func certFolder(t *testing.T) *folder {
	t.Helper()
	f, err := openFolder(durable.OS(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestSelfSignedIsMadeOnceAndKept(t *testing.T) {
	f := certFolder(t)
	cfg := config(f.dir)
	first, err := openCerts(f, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	again, err := openCerts(f, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.current.Certificate[0], again.current.Certificate[0]) {
		t.Error("the second start made another certificate")
	}
	leaf, err := x509.ParseCertificate(first.current.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	if _, err := leaf.Verify(x509.VerifyOptions{DNSName: "mail.example.org", Roots: pool}); err != nil {
		t.Errorf("a client that trusts it: %v", err)
	}
	if st, err := os.Stat(f.path("tls", "key.pem")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("key: mode %v, %v; want 0600", st.Mode(), err)
	}
}

func TestReplacedCertificateIsRead(t *testing.T) {
	f, other := certFolder(t), certFolder(t)
	var log logBuffer
	c, err := openCerts(f, config(f.dir), log.logger())
	if err != nil {
		t.Fatal(err)
	}
	next, err := openCerts(other, config(other.dir), log.logger())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	c.now = func() time.Time { return now }
	old, renewed := c.current.Certificate[0], next.current.Certificate[0]
	want := func(what string, cert []byte) {
		t.Helper()
		got, err := c.get(nil)
		if err != nil || !bytes.Equal(got.Certificate[0], cert) {
			t.Errorf("%s: another certificate than expected, %v", what, err)
		}
	}
	replace := func(name string) {
		t.Helper()
		b, err := os.ReadFile(other.path("tls", name))
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, string(b), f.path("tls", name))
		now = now.Add(time.Hour)
		if err := os.Chtimes(f.path("tls", name), now, now); err != nil {
			t.Fatal(err)
		}
	}
	want("at first", old)
	replace("cert.pem")
	want("certificate without its key", old)
	if !strings.Contains(log.String(), "cannot be read") {
		t.Errorf("no warning:\n%s", log.String())
	}
	replace("key.pem")
	want("both replaced", renewed)
	if err := os.Remove(f.path("tls", "cert.pem")); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Hour)
	want("file gone", renewed)
}

func TestConfiguredCertificate(t *testing.T) {
	f, other := certFolder(t), certFolder(t)
	log := slog.New(slog.DiscardHandler)
	if _, err := openCerts(other, config(other.dir), log); err != nil {
		t.Fatal(err)
	}
	cfg := config(f.dir)
	cfg.TLS = TLSConfig{Cert: other.path("tls", "cert.pem"), Key: other.path("tls", "key.pem")}
	if _, err := openCerts(f, cfg, log); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(f.path("tls")); err == nil {
		t.Error("a self-signed certificate was made beside the configured one")
	}
	cfg.TLS.Key = f.path("none.key")
	if _, err := openCerts(f, cfg, log); err == nil || !strings.Contains(err.Error(), cfg.TLS.Key) {
		t.Errorf("no key: got %v, want an error that names the file", err)
	}
}
