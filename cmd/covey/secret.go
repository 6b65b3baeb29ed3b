package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/internal/peer"
	"github.com/covey-mail/covey/node/admin"
)

type secretCmd struct {
	New    secretNewCmd    `cmd:"" default:"withargs" help:"Make the secret that the nodes of a new cluster share."`
	Rotate secretRotateCmd `cmd:"" help:"Replace the secret of the cluster by a new one while all nodes run."`
	List   secretListCmd   `cmd:"" help:"Show which secrets each node uses, by their fingerprints."`
}

type secretNewCmd struct {
	File string `arg:"" help:"Where to write it; a file that is there stays as it is."`
}

// Run makes the file.
func (c *secretNewCmd) Run(io stdio) error {
	_, err := os.Stat(c.File)
	if err == nil {
		_, err = peer.ReadSecrets(durable.OS(), c.File)
		return err
	}
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	s, err := peer.NewSecret(rand.Reader)
	if err == nil {
		err = peer.WriteSecrets(durable.OS(), c.File, []peer.Secret{s})
	}
	return err
}

type secretRotateCmd struct{ dataFlags }

// Run rotates the secret, which takes a quarter of a minute.
func (c *secretRotateCmd) Run(ctx context.Context, io stdio) error {
	fmt.Fprintln(io.err, "replacing the secret on every node; this takes about fifteen seconds")
	s, err := call[admin.Secrets](ctx, c.dataFlags, admin.SecretRotate, admin.Empty{})
	if err != nil {
		return err
	}
	return done(io, c.dataFlags, nil, "the secret is now "+strings.Join(s.Secrets, " ")+" on every node")
}

type secretListCmd struct{ dataFlags }

// Run prints a line for each node.
func (c *secretListCmd) Run(ctx context.Context, io stdio) error {
	list, err := call[[]admin.Secrets](ctx, c.dataFlags, admin.SecretList, admin.Empty{})
	if err != nil {
		return err
	}
	if c.JSON {
		return io.json(list)
	}
	rows := make([][]string, len(list))
	for i, s := range list {
		text := strings.Join(s.Secrets, " ")
		if s.Error != "" {
			text = s.Error
		}
		rows[i] = []string{s.Node, text}
	}
	return io.table("node secrets", rows)
}
