package main

import (
	"context"
	"strings"

	"github.com/covey-mail/covey/node/admin"
)

type aliasCmd struct {
	Add    aliasAddCmd    `cmd:"" help:"Make an address that leads to others; @DOMAIN catches all that is not known there."`
	Set    aliasSetCmd    `cmd:"" help:"Replace where an alias leads."`
	List   aliasListCmd   `cmd:"" help:"List the aliases."`
	Remove aliasRemoveCmd `cmd:"" help:"Remove an alias."`
}

type aliasAddCmd struct {
	dataFlags
	Address string   `arg:"" help:"The alias, or @DOMAIN."`
	Targets []string `arg:"" help:"Addresses it leads to."`
}

// Run adds the alias.
func (c *aliasAddCmd) Run(ctx context.Context, io stdio) error {
	_, err := call[admin.Done](ctx, c.dataFlags, admin.AliasAdd, admin.Alias{Address: c.Address, Targets: c.Targets})
	return done(io, c.dataFlags, err, "alias "+c.Address+" added")
}

type aliasSetCmd struct {
	dataFlags
	Address string   `arg:"" help:"The alias, or @DOMAIN."`
	Targets []string `arg:"" help:"Addresses it leads to from now on."`
}

// Run replaces the alias's targets.
func (c *aliasSetCmd) Run(ctx context.Context, io stdio) error {
	_, err := call[admin.Done](ctx, c.dataFlags, admin.AliasSet, admin.Alias{Address: c.Address, Targets: c.Targets})
	return done(io, c.dataFlags, err, "alias "+c.Address+" set")
}

type aliasRemoveCmd struct {
	dataFlags
	Address string `arg:"" help:"The alias, or @DOMAIN."`
}

// Run removes the alias.
func (c *aliasRemoveCmd) Run(ctx context.Context, io stdio) error {
	_, err := call[admin.Done](ctx, c.dataFlags, admin.AliasRemove, admin.Name{Name: c.Address})
	return done(io, c.dataFlags, err, "alias "+c.Address+" removed")
}

type aliasListCmd struct {
	dataFlags
	Prefix string `arg:"" optional:"" help:"Only addresses that begin so."`
}

// Run prints the aliases.
func (c *aliasListCmd) Run(ctx context.Context, io stdio) error {
	list, err := pages(ctx, c.dataFlags, admin.AliasList, c.Prefix, func(a admin.Alias) string { return a.Address })
	if err != nil {
		return err
	}
	if c.JSON {
		return io.json(list)
	}
	rows := make([][]string, len(list))
	for i, a := range list {
		rows[i] = []string{a.Address, strings.Join(a.Targets, " ")}
	}
	return io.table("alias targets", rows)
}

// pages reads a whole list page by page.
func pages[T any](ctx context.Context, f dataFlags, op, prefix string, name func(T) string) ([]T, error) {
	const limit = 1000
	all := []T{}
	after := ""
	for {
		page, err := call[[]T](ctx, f, op, admin.Page{Prefix: prefix, After: after, Limit: limit})
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if len(page) < limit {
			return all, nil
		}
		after = name(page[len(page)-1])
	}
}
