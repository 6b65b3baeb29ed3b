package node

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/peer"
	"github.com/covey-mail/covey/node/admin"
)

const (
	// secretPatience is how long one node has for one step: its links are being
	// replaced while it is asked.
	secretPatience = 15 * time.Second
	// settleTime is the time that links have to be made anew under the new secret
	// before those of the old one are cut. Calls have 10 s to end.
	settleTime = 12 * time.Second
)

// secretList tells which secrets each node uses.
func (n *Node) secretList(ctx context.Context, _ admin.Empty) ([]admin.Secrets, error) {
	list := []admin.Secrets{}
	for _, m := range n.directory.Nodes() {
		s := admin.Secrets{Node: m.ID.String(), Secrets: []string{}}
		if is, err := n.askSecrets(ctx, m.ID, nil); err != nil {
			s.Error = err.Error()
		} else {
			s.Secrets = fingerprints(is)
		}
		list = append(list, s)
	}
	return list, nil
}

// secretRotate replaces the secret on all nodes while they run. A rotation that
// was broken off somewhere is ended first, whichever way is safe, and then a new
// one is made: that costs nothing, and what step it had reached cannot be told
// from what the nodes have.
func (n *Node) secretRotate(ctx context.Context, _ admin.Empty) (admin.Secrets, error) {
	if n.links.Net == nil {
		return admin.Secrets{}, covey.Errorf(covey.Invalid, "this node has no links to others: it uses no secret")
	}
	if err := n.endRotation(ctx); err != nil {
		return admin.Secrets{}, err
	}
	old := n.secrets.all()[0]
	next, err := peer.NewSecret(rand.Reader)
	if err != nil {
		return admin.Secrets{}, err
	}
	for _, step := range [][]peer.Secret{{old, next}, {next, old}} {
		if err := n.secretsEverywhere(ctx, step); err != nil {
			return admin.Secrets{}, err
		}
	}
	if err := n.settle(ctx); err != nil {
		return admin.Secrets{}, err
	}
	// A node that joined by the old secret meanwhile has to know the new one.
	if err := n.secretsEverywhere(ctx, []peer.Secret{next, old}); err != nil {
		return admin.Secrets{}, err
	}
	if err := n.secretsEverywhere(ctx, []peer.Secret{next}); err != nil {
		return admin.Secrets{}, err
	}
	n.log.Info("secret of the cluster replaced", "old", old.Fingerprint(), "new", next.Fingerprint())
	return admin.Secrets{Node: n.folder.id.String(), Secrets: []string{next.Fingerprint()}}, nil
}

func (n *Node) settle(ctx context.Context) error {
	if len(n.directory.Nodes()) == 1 {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-n.leaving:
		return covey.Errorf(covey.Unavailable, "the node is stopping")
	case <-time.After(settleTime):
		return nil
	}
}

// endRotation has all nodes use the one secret that this node uses first. While it
// asks every node believes in that: else it could not be asked.
func (n *Node) endRotation(ctx context.Context) error {
	mine := n.secrets.all()
	used := slices.Clone(mine)
	for _, m := range n.directory.Nodes() {
		list, err := n.askSecrets(ctx, m.ID, nil)
		if err != nil {
			return unreached(m.ID, err)
		}
		for _, s := range list {
			if !slices.Contains(used, s) {
				used = append(used, s)
			}
		}
	}
	switch {
	case len(used) == 1:
		return nil
	case len(used) > 2:
		return covey.Errorf(covey.Denied, "the nodes use more than two secrets, %s: see `covey secret list`, and give them the same file by hand", fingerprints(used))
	}
	keep, other := mine[0], used[0]
	if other == keep {
		other = used[1]
	}
	n.log.Info("ending a rotation of the secret that was broken off", "keep", keep.Fingerprint(), "drop", other.Fingerprint())
	if err := n.secretsEverywhere(ctx, []peer.Secret{keep, other}); err != nil {
		return err
	}
	if err := n.settle(ctx); err != nil {
		return err
	}
	return n.secretsEverywhere(ctx, []peer.Secret{keep})
}

// secretsEverywhere has all members use list, one after the other: several on one
// host may share the file.
func (n *Node) secretsEverywhere(ctx context.Context, list []peer.Secret) error {
	for _, m := range n.directory.Nodes() {
		is, err := n.askSecrets(ctx, m.ID, list)
		if err == nil && !slices.Equal(is, list) {
			err = covey.Errorf(covey.Conflict, "it uses %s, not %s: somebody else is changing them", fingerprints(is), fingerprints(list))
		}
		if err != nil {
			return unreached(m.ID, err)
		}
	}
	return nil
}

// askSecrets has a node use list, if there is one, and returns what it uses. Both
// may be asked for again.
func (n *Node) askSecrets(ctx context.Context, id covey.NodeID, list []peer.Secret) ([]peer.Secret, error) {
	if id == n.folder.id {
		if len(list) > 0 {
			if err := n.setSecrets(list); err != nil {
				return nil, err
			}
		}
		return n.secrets.all(), nil
	}
	if n.gossipDead(id) && len(list) == 0 {
		return nil, covey.Errorf(covey.Unavailable, "it is dead")
	}
	ctx, cancel := context.WithTimeout(ctx, secretPatience)
	defer cancel()
	for {
		b, err := n.links.Call(ctx, id, methodSecrets, encodeSecrets(list))
		if err == nil {
			return decodeSecrets(b)
		}
		again := errors.Is(err, covey.Unavailable) || errors.Is(err, covey.Unknown)
		if !again || len(list) == 0 || ctx.Err() != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(askEvery):
		}
	}
}
