package node

import (
	"crypto/rand"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/peer"
	"github.com/covey-mail/covey/node/admin"
)

func newSecret(t *testing.T) peer.Secret {
	t.Helper()
	s, err := peer.NewSecret(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A rotation replaces the secret in use and in the file; the node starts with it.
func TestRotateAlone(t *testing.T) {
	cfg := config(t.TempDir())
	n := run(t, cfg)
	before := call[[]admin.Secrets](t, n, admin.SecretList, admin.Empty{})
	after := call[admin.Secrets](t, n, admin.SecretRotate, admin.Empty{})
	if len(before) != 1 || len(before[0].Secrets) != 1 || len(after.Secrets) != 1 || before[0].Secrets[0] == after.Secrets[0] {
		t.Errorf("secrets %+v, then %+v", before, after)
	}
	if got := call[[]admin.Secrets](t, n, admin.SecretList, admin.Empty{}); !slices.Equal(got[0].Secrets, after.Secrets) {
		t.Errorf("in use are %v, want %v", got[0].Secrets, after.Secrets)
	}
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	n = run(t, cfg)
	if got := fingerprints(n.secrets.all()); !slices.Equal(got, after.Secrets) {
		t.Errorf("after a start %v, want %v", got, after.Secrets)
	}
}

// A rotation that was broken off, at whichever step, is ended before the next.
func TestRotateAfterOneBrokenOff(t *testing.T) {
	n := run(t, config(t.TempDir()))
	old, next := n.secrets.all()[0], newSecret(t)
	for _, step := range [][]peer.Secret{{old, next}, {next, old}} {
		if err := n.setSecrets(step); err != nil {
			t.Fatal(err)
		}
	}
	after := call[admin.Secrets](t, n, admin.SecretRotate, admin.Empty{})
	if got := n.secrets.all(); len(got) != 1 || got[0] == old || got[0] == next || got[0].Fingerprint() != after.Secrets[0] {
		t.Errorf("in use are %v; were %v", fingerprints(got), fingerprints([]peer.Secret{old, next}))
	}
}

// Whoever changes the file changes what is in use, but for what would cut the node
// off.
func TestSecretsFollowTheFile(t *testing.T) {
	n := run(t, config(t.TempDir()))
	old, next, foreign := n.secrets.all()[0], newSecret(t), newSecret(t)
	for _, tt := range []struct {
		list []peer.Secret
		want error
	}{
		{[]peer.Secret{foreign}, covey.Denied},
		{[]peer.Secret{old, next}, nil},
		{[]peer.Secret{next, old}, nil},
		{[]peer.Secret{next}, nil},
		{[]peer.Secret{old}, covey.Denied},
	} {
		was := n.secrets.all()
		if err := n.useSecrets(tt.list); !errors.Is(err, tt.want) {
			t.Errorf("%v: %v, want %v", fingerprints(tt.list), err, tt.want)
		}
		if tt.want == nil {
			was = tt.list
		}
		if d := cmp.Diff(fingerprints(was), fingerprints(n.secrets.all())); d != "" {
			t.Errorf("after %v (-want +got):\n%s", fingerprints(tt.list), d)
		}
	}
	if err := peer.WriteSecrets(n.sys.FS, n.secretFile(), []peer.Secret{next, foreign}); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "the file is followed", func() bool { return len(n.secrets.all()) == 2 })
}

// A file that is not the node's to write says what to do instead.
func TestRotateNeedsTheFile(t *testing.T) {
	n := run(t, config(t.TempDir()))
	was := n.secrets.all()
	// In the way of the new file, also for root.
	if err := os.Mkdir(n.secretFile()+".tmp", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := try[admin.Secrets](t, n, admin.SecretRotate, admin.Empty{}); !errors.Is(err, covey.Denied) {
		t.Errorf("rotate: %v, want Denied", err)
	}
	if got := n.secrets.all(); !slices.Equal(got, was) {
		t.Errorf("in use are %v, want %v", fingerprints(got), fingerprints(was))
	}
}

// A node that has run makes no other secret when its own is not where it looks: it
// would find nobody with it.
func TestNoSecondSecret(t *testing.T) {
	cfg := config(t.TempDir())
	n := run(t, cfg)
	waitUntil(t, "the disk has a stamp", func() bool { return n.directory.Nodes()[0].Stamp.Count > 0 })
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(n.secretFile(), n.secretFile()+".elsewhere"); err != nil {
		t.Fatal(err)
	}
	if _, err := StartOn(t.Context(), cfg, realSystem()); !errors.Is(err, covey.Invalid) || !strings.Contains(err.Error(), "--secret-file") {
		t.Errorf("start: %v, want Invalid, and what to do", err)
	}
	if _, err := os.Stat(n.secretFile()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v, want it not made", n.secretFile(), err)
	}
	cfg.Cluster.SecretFile = n.secretFile() + ".elsewhere"
	run(t, cfg)
}

func FuzzDecodeSecrets(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 32))
	f.Add(make([]byte, 64))
	f.Add(make([]byte, 96))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := decodeSecrets(b)
		if err == nil && string(encodeSecrets(list)) != string(b) {
			t.Errorf("%d octets are %d secrets", len(b), len(list))
		}
	})
}
