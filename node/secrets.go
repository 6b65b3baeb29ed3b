package node

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/peer"
	"github.com/covey-mail/covey/membership"
)

// secrets are those of the cluster that this node uses, the first for what it
// sends. There are none on a node that stays alone.
//
// A secret is replaced in three steps, each of them everywhere before the next:
// {old, new}, {new, old}, {new}. So at each moment what any node shows or sends is
// known to all.
type secrets struct {
	mu   sync.Mutex // held while they change; guards list
	list []peer.Secret
}

func (s *secrets) all() []peer.Secret {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list)
}

// secretFile is where the cluster's secret is.
func (n *Node) secretFile() string {
	if n.cfg.Cluster.SecretFile != "" {
		return n.cfg.Cluster.SecretFile
	}
	return n.folder.path("cluster.secret")
}

// openSecrets reads the cluster's secret, or makes one for a new node that joins
// nobody.
func (n *Node) openSecrets() error {
	path := n.secretFile()
	list, err := peer.ReadSecrets(n.sys.FS, path)
	switch {
	case err == nil:
	case !errors.Is(err, os.ErrNotExist):
		return err
	case len(n.cfg.Cluster.Join) > 0 || n.cfg.Cluster.SecretFile != "":
		return covey.Errorf(covey.Invalid, "there is no secret in %s: copy it from a node of the cluster (DIR/cluster.secret), or make one for a new cluster with `covey secret new %s`, the same file on every node", path, path)
	case n.folder.stamp().Count > 0: // it has run with one, which was elsewhere or is lost
		return covey.Errorf(covey.Invalid, "the secret of cluster %s, which this node is in, is not in %s: name its file with --secret-file or [cluster] secret_file, or copy it from another node; if there is no other node, make one with `covey secret new %s`", n.folder.self.Cluster, path, path)
	default:
		s, err := peer.NewSecret(rand.Reader)
		if err != nil {
			return err
		}
		list = []peer.Secret{s}
		if err := peer.WriteSecrets(n.sys.FS, path, list); err != nil {
			return err
		}
	}
	n.secrets.list = list
	return nil
}

// gossipKeys are what gossip encrypts with.
func gossipKeys(list []peer.Secret) [][]byte {
	keys := make([][]byte, len(list))
	for i, s := range list {
		keys[i] = s.GossipKey()
	}
	return keys
}

// saltKey makes the salts that SCRAM shows for users who do not exist the same on
// all nodes. It changes with the secret.
func (n *Node) saltKey() []byte {
	list := n.secrets.all()
	if len(list) == 0 {
		return nil
	}
	key, err := hkdf.Key(sha256.New, list[0].GossipKey(), nil, "covey scram salts", 32)
	if err != nil {
		return nil // only for lengths that are out of range
	}
	return key
}

// useSecrets makes list the secrets in use. One that has nothing in common with
// those before would cut this node off, and is refused.
func (n *Node) useSecrets(list []peer.Secret) error {
	n.secrets.mu.Lock()
	defer n.secrets.mu.Unlock()
	if slices.Equal(list, n.secrets.list) {
		return nil
	}
	if !slices.ContainsFunc(list, func(s peer.Secret) bool { return slices.Contains(n.secrets.list, s) }) {
		return covey.Errorf(covey.Denied, "the secrets %s have none in common with those in use, %s: other nodes would not be reached any more; see docs/operating.md, «The secret»",
			fingerprints(list), fingerprints(n.secrets.list))
	}
	if err := n.links.SetSecrets(list); err != nil {
		return err
	}
	if g := n.links.gossip.Load(); g != nil {
		if err := g.SetKeys(gossipKeys(list)); err != nil {
			return err
		}
	}
	n.secrets.list = list
	n.log.Info("secrets of the cluster changed", "in_use", fingerprints(list))
	return nil
}

// fingerprints tell secrets apart for people.
func fingerprints(list []peer.Secret) []string {
	names := make([]string, len(list))
	for i, s := range list {
		names[i] = s.Fingerprint()
	}
	return names
}

// lookEvery is how often the file of the secret is looked at.
const lookEvery = 5 * time.Second

// watchSecrets follows changes that somebody makes in the file: where it is not
// this node's to write, that is how a secret is replaced.
func (n *Node) watchSecrets(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		list, err := peer.ReadSecrets(n.sys.FS, n.secretFile())
		if err == nil {
			err = n.useSecrets(list)
		}
		switch {
		case err == nil:
			said = ""
		case err.Error() != said: // once is enough
			said = err.Error()
			n.log.Error("the file of the secret is not as it should be; what was in use stays", "err", err)
		}
	}
}

// setSecrets writes the file and uses what is in it.
func (n *Node) setSecrets(list []peer.Secret) error {
	path := n.secretFile()
	if is, err := peer.ReadSecrets(n.sys.FS, path); err != nil || !slices.Equal(is, list) {
		if err := peer.WriteSecrets(n.sys.FS, path, list); err != nil {
			return covey.Errorf(covey.Denied, "%w: where the file is not the node's to write, change it by hand, in three steps: see docs/operating.md, «The secret»", err)
		}
	}
	return n.useSecrets(list)
}

// serveSecrets tells another member which secrets this node uses, after setting
// those that it sends, if it sends any. A member may know: whoever is one has the
// secret, or had it.
func (n *Node) serveSecrets(_ context.Context, from covey.NodeID, req []byte) ([]byte, error) {
	list, err := decodeSecrets(req)
	if err != nil {
		return nil, err
	}
	if len(list) > 0 {
		n.log.Info("another node changes the secrets", "by", from.String(), "to", fingerprints(list))
		if err := n.setSecrets(list); err != nil {
			return nil, err
		}
	}
	return encodeSecrets(n.secrets.all()), nil
}

func encodeSecrets(list []peer.Secret) []byte {
	var b []byte
	for _, s := range list {
		b = append(b, s[:]...)
	}
	return b
}

// decodeSecrets is the inverse of encodeSecrets. How many there may be, and that
// they differ, is judged where they are used.
func decodeSecrets(b []byte) ([]peer.Secret, error) {
	const most = 2
	var list []peer.Secret
	for size := len(peer.Secret{}); len(b) > 0; b = b[size:] {
		if len(b) < size || len(list) == most {
			return nil, covey.Errorf(covey.Invalid, "secrets that make no sense")
		}
		list = append(list, peer.Secret(b[:size]))
	}
	return list, nil
}

// unreached says that a node has to be there for something to be done with the
// secrets of all.
func unreached(id covey.NodeID, err error) error {
	return fmt.Errorf("node %s: %w: every node has to be there; bring it back, or remove it first with `covey node remove %s`", id, err, id)
}

// gossipDead is the reason that a call has not to be tried.
func (n *Node) gossipDead(id covey.NodeID) bool {
	g := n.links.gossip.Load()
	if g == nil {
		return false
	}
	m, ok := g.Member(id)
	return ok && (m.State == membership.Dead || m.State == membership.Left)
}
