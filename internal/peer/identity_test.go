package peer

import (
	"crypto/x509"
	"net/url"
	"testing"
	"time"

	"github.com/covey-mail/covey"
)

func testIdentity(t *testing.T, secrets ...Secret) *identity {
	t.Helper()
	id, err := newIdentity(facts{node: 1, cluster: testCluster, secrets: secrets}, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func certsOf(t *testing.T, id *identity) []*x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(id.cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return []*x509.Certificate{c}
}

// A clock that is off by years, in a node or in both, splits no cluster.
func TestCertificatesOutliveClocks(t *testing.T) {
	id := testIdentity(t, testSecret(1))
	for _, year := range []int{1971, 1999, 2026, 2038, 2050, 2106, 9000} {
		now := time.Date(year, 6, 1, 0, 0, 0, 0, time.UTC)
		r, _, err := id.verify(certsOf(t, id), now)
		if err != nil || r.Node != 1 || r.Cluster != testCluster || !r.Key.Equal(testPub(1)) {
			t.Errorf("in %d: %+v, %v", year, r, err)
		}
	}
}

// While a secret is replaced, nodes that are a step ahead or behind believe each
// other; at the end, and only then, the old one counts for nothing.
func TestTwoSecrets(t *testing.T) {
	older, newer := testSecret(1), testSecret(2)
	steps := []*identity{
		testIdentity(t, older), testIdentity(t, older, newer), testIdentity(t, newer, older), testIdentity(t, newer),
	}
	for i, a := range steps {
		for j, b := range steps {
			_, ca, err := a.verify(certsOf(t, b), time.Now())
			if err == nil && !a.believes(ca) {
				t.Errorf("step %d verifies step %d and does not believe it", i, j)
			}
			_, _, back := b.verify(certsOf(t, a), time.Now())
			if both := err == nil && back == nil; both != (i-j <= 1 && j-i <= 1) {
				t.Errorf("steps %d and %d: %v, %v", i, j, err, back)
			}
		}
	}
	_, ca, err := steps[0].verify(certsOf(t, steps[0]), time.Now())
	if err != nil || steps[3].believes(ca) {
		t.Errorf("the old secret is believed at the end (%v)", err)
	}
}

// A certificate tells the stamp of the disk, whatever it is.
func TestStampTravels(t *testing.T) {
	for _, want := range []covey.DiskStamp{{}, {Count: 1}, {Count: 1, Mark: 1}, {Count: 1 << 63, Mark: 1<<64 - 1}} {
		id, err := newIdentity(facts{node: 1<<63 - 1, cluster: testCluster, secrets: []Secret{testSecret(1)}, stamp: want}, testKey(1))
		if err != nil {
			t.Fatal(err)
		}
		r, _, err := id.verify(certsOf(t, id), time.Now())
		if err != nil || r.Stamp != want {
			t.Errorf("%+v arrives as %+v (%v)", want, r.Stamp, err)
		}
	}
}

func TestParseURI(t *testing.T) {
	good := memberURI(7, testCluster).String()
	for s, ok := range map[string]bool{
		good:                              true,
		good + "/":                        false,
		good + "?x":                       false,
		good[:len(good)-1]:                false,
		"covey://01/0000000000000007":     false,
		"spiffe" + good[len("covey"):]:    false,
		"covey://" + testCluster.String(): false,
		"covey://" + testCluster.String() + "/0000000000000000":     false,
		"covey://u@" + testCluster.String() + "/0000000000000007":   false,
		"covey://" + testCluster.String() + ":1/0000000000000007":   false,
		"covey:" + testCluster.String() + "/0000000000000007":       false,
		"covey://zz" + testCluster.String()[2:] + "/0000000000000a": false,
	} {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		node, cluster, err := parseURI(u)
		if (err == nil) != ok {
			t.Errorf("%s: %v", s, err)
		}
		if ok && (node != 7 || cluster != testCluster) {
			t.Errorf("%s: node %s, cluster %s", s, node, cluster)
		}
	}
}

func FuzzParseURI(f *testing.F) {
	f.Add(memberURI(7, testCluster).String())
	f.Add("CoveY://000A0000000000000000000000000000/0000000000000001")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := url.Parse(s)
		if err != nil {
			return
		}
		node, cluster, err := parseURI(u)
		if err == nil && (node == 0 || memberURI(node, cluster).String() != u.String()) {
			t.Errorf("%q is node %s of cluster %s", s, node, cluster)
		}
		if err != nil && covey.KindOf(err) != covey.Invalid {
			t.Errorf("%q: %v", s, err)
		}
	})
}
