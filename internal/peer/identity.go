package peer

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/covey-mail/covey"
)

// protocol is the application protocol of TLS, and our version.
const protocol = "covey/1"

// A Remote is who is at the other end of a connection, as its certificate says.
type Remote struct {
	Node    covey.NodeID
	Cluster covey.ClusterID // zero: in no cluster yet
	Key     ed25519.PublicKey
	Stamp   covey.DiskStamp // of its disk
	Addr    string          // where the connection comes from or goes to
}

// An identity is what a node shows of itself and believes of others. It does not
// change.
type identity struct {
	facts
	cas  []*x509.Certificate // one for each secret; any of them is believed
	cert tls.Certificate     // ours, issued by the first
}

// facts are what an identity is made of, beside the node's key.
type facts struct {
	node    covey.NodeID
	cluster covey.ClusterID
	secrets []Secret
	stamp   covey.DiskStamp
}

// Certificates are valid from the beginning of time to RFC 5280's "no
// well-defined expiration date" (section 4.1.2.5): see DESIGN.md.
var (
	notBefore = time.Unix(0, 0).UTC()
	notAfter  = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

func newIdentity(f facts, key ed25519.PrivateKey) (*identity, error) {
	if len(f.secrets) == 0 {
		return nil, covey.Errorf(covey.Invalid, "no cluster secret")
	}
	f.secrets = slices.Clone(f.secrets)
	id := &identity{facts: f}
	for i, s := range f.secrets {
		if err := checkSecrets(f.secrets[:i+1]); err != nil {
			return nil, covey.Errorf(covey.Invalid, "cluster secrets: %w", err)
		}
		ca, err := newCA(s.caKey())
		if err != nil {
			return nil, err
		}
		id.cas = append(id.cas, ca)
	}
	template := leafTemplate(f.node, f.cluster)
	if f.stamp.Count > 0 {
		template.SerialNumber = stampSerial(f.stamp)
	}
	der, err := x509.CreateCertificate(nil, template, id.cas[0], key.Public(), f.secrets[0].caKey())
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	id.cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return id, nil
}

// newCA makes the certificate of a cluster's authority. Every node makes the same
// for itself; it never travels.
func newCA(key ed25519.PrivateKey) (*x509.Certificate, error) {
	public := key.Public().(ed25519.PublicKey)
	sum := sha256.Sum256(public)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "Covey cluster CA"},
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		SubjectKeyId:          sum[:20],
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(nil, template, template, public, key)
	if err != nil {
		return nil, fmt.Errorf("make cluster CA: %w", err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make cluster CA: %w", err)
	}
	return ca, nil
}

func leafTemplate(node covey.NodeID, cluster covey.ClusterID) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          new(big.Int).SetUint64(uint64(node)),
		Subject:               pkix.Name{CommonName: "Covey node " + node.String()},
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:                  []*url.URL{memberURI(node, cluster)},
	}
}

// memberURI is what a certificate says of who has it.
func memberURI(node covey.NodeID, cluster covey.ClusterID) *url.URL {
	return &url.URL{Scheme: "covey", Host: cluster.String(), Path: "/" + node.String()}
}

// parseURI is the inverse of memberURI, and takes nothing that memberURI would
// write otherwise.
func parseURI(u *url.URL) (node covey.NodeID, cluster covey.ClusterID, err error) {
	wrong := covey.Errorf(covey.Invalid, "certificate for %.80q, want covey://CLUSTER/NODE", u.String())
	rest, ok := strings.CutPrefix(u.String(), "covey://")
	host, path, cut := strings.Cut(rest, "/")
	if !ok || !cut || len(host) != hex.EncodedLen(len(cluster)) {
		return 0, cluster, wrong
	}
	if _, err := hex.Decode(cluster[:], []byte(host)); err != nil {
		return 0, cluster, wrong
	}
	if node, err = covey.ParseNodeID(path); err != nil || u.String() != memberURI(node, cluster).String() {
		return 0, cluster, wrong
	}
	return node, cluster, nil
}

// A certificate's serial number (RFC 5280 section 4.1.2.2) carries the stamp of the
// disk: an octet that says so, count and mark. Of a node that has no stamp it is the
// node's id.
const (
	stampFirst  = 1
	stampOctets = 17
)

func stampSerial(s covey.DiskStamp) *big.Int {
	b := binary.BigEndian.AppendUint64([]byte{stampFirst}, s.Count)
	return new(big.Int).SetBytes(binary.BigEndian.AppendUint64(b, s.Mark))
}

// parseSerial is the inverse of stampSerial; zero for a number that bears no stamp.
func parseSerial(n *big.Int) covey.DiskStamp {
	b := n.Bytes()
	if len(b) != stampOctets || b[0] != stampFirst {
		return covey.DiskStamp{}
	}
	return covey.DiskStamp{Count: binary.BigEndian.Uint64(b[1:]), Mark: binary.BigEndian.Uint64(b[9:])}
}

// verify returns who the certificates say the other side is, and the key of the
// CA that says so. The TLS handshake proves that it has the key.
func (id *identity) verify(certs []*x509.Certificate, now time.Time) (Remote, ed25519.PublicKey, error) {
	fail := func(format string, args ...any) (Remote, ed25519.PublicKey, error) {
		return Remote{}, nil, refuse(refusedCertificate, covey.Denied, format, args...)
	}
	if len(certs) != 1 {
		return fail("%d certificates, want one", len(certs))
	}
	leaf := certs[0]
	roots := x509.NewCertPool()
	for _, ca := range id.cas {
		roots.AddCert(ca)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return fail("certificate: %w", err)
	}
	// Either side of a connection may dial tomorrow: one that could only be a
	// client, or a server, is not one of ours.
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if !slices.Contains(leaf.ExtKeyUsage, use) {
			return fail("certificate for only one side of a connection")
		}
	}
	key, ok := leaf.PublicKey.(ed25519.PublicKey)
	if !ok || len(leaf.URIs) != 1 || leaf.IsCA {
		return fail("certificate that is not a node's")
	}
	node, cluster, err := parseURI(leaf.URIs[0])
	if err != nil {
		return fail("%w", err)
	}
	ca := chains[0][len(chains[0])-1].PublicKey.(ed25519.PublicKey)
	return Remote{Node: node, Cluster: cluster, Key: key, Stamp: parseSerial(leaf.SerialNumber)}, ca, nil
}

// believes reports whether ca is one of those of our secrets.
func (id *identity) believes(ca ed25519.PublicKey) bool {
	return slices.ContainsFunc(id.cas, func(c *x509.Certificate) bool {
		return bytes.Equal(c.PublicKey.(ed25519.PublicKey), ca)
	})
}

// tls returns a configuration for one connection, which shows our identity.
// check is called during the handshake, once the other side's certificate has
// been verified; if it fails, so does the handshake.
func (n *Net) tls(shown *identity, check func(r Remote, ca ed25519.PublicKey) error) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{shown.cert},
		NextProtos:   []string{protocol},
		ClientAuth:   tls.RequireAnyClientCert,
		// The name of a node is not one of DNS: VerifyConnection checks the
		// certificate, for both sides.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if s.NegotiatedProtocol != protocol {
				return refuse(refusedVersion, covey.Denied, "the other side does not speak %s", protocol)
			}
			// Not as things were when the handshake began.
			r, ca, err := n.identity.Load().verify(s.PeerCertificates, time.Now())
			if err != nil {
				return err
			}
			return check(r, ca)
		},
		// A resumed session would be one whose certificate was looked at long ago.
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
	}
}
