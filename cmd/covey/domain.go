package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/covey-mail/covey/node/admin"
)

type domainCmd struct {
	Add    domainAddCmd    `cmd:"" help:"Take mail for a domain."`
	List   domainListCmd   `cmd:"" help:"List the domains."`
	Remove domainRemoveCmd `cmd:"" help:"Stop taking mail for a domain; it must have no accounts or aliases."`
}

type domainAddCmd struct {
	dataFlags
	Name string `arg:"" help:"The domain, such as example.org."`
}

// Run adds the domain.
func (c *domainAddCmd) Run(ctx context.Context, io stdio) error {
	_, err := call[admin.Done](ctx, c.dataFlags, admin.DomainAdd, admin.Name{Name: c.Name})
	return done(io, c.dataFlags, err, "domain "+c.Name+" added")
}

type domainRemoveCmd struct {
	dataFlags
	Name string `arg:"" help:"The domain."`
}

// Run removes the domain.
func (c *domainRemoveCmd) Run(ctx context.Context, io stdio) error {
	_, err := call[admin.Done](ctx, c.dataFlags, admin.DomainRemove, admin.Name{Name: c.Name})
	return done(io, c.dataFlags, err, "domain "+c.Name+" removed")
}

type domainListCmd struct{ dataFlags }

// Run prints the domains.
func (c *domainListCmd) Run(ctx context.Context, io stdio) error {
	list, err := call[[]admin.Domain](ctx, c.dataFlags, admin.DomainList, admin.Empty{})
	if err != nil {
		return err
	}
	if c.JSON {
		return io.json(list)
	}
	rows := make([][]string, len(list))
	for i, d := range list {
		rows[i] = []string{d.Name, strconv.Itoa(d.Accounts), strconv.Itoa(d.Aliases)}
	}
	return io.table("domain accounts aliases", rows)
}

// done prints that something was done, or returns err.
func done(io stdio, f dataFlags, err error, text string) error {
	if err != nil {
		return err
	}
	if f.JSON {
		return io.json(map[string]string{"done": text})
	}
	_, err = fmt.Fprintln(io.out, text)
	return err
}
