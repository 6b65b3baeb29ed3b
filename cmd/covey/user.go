package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/covey-mail/covey/node/admin"
)

type userCmd struct {
	Add    userAddCmd    `cmd:"" help:"Make an account; the password is read from standard input or asked for."`
	List   userListCmd   `cmd:"" help:"List the accounts."`
	Show   userShowCmd   `cmd:"" help:"Show one account."`
	Set    userSetCmd    `cmd:"" help:"Change an account's quota, or switch its log-in off and on."`
	Remove userRemoveCmd `cmd:"" help:"Remove an account and all its mail."`
	Import userImportCmd `cmd:"" help:"Make accounts from a file: address and password or {SCHEME}hash, one a line."`
}

type userAddCmd struct {
	dataFlags
	Address string `arg:"" help:"The account's address."`
	Quota   size   `help:"Most the account may hold, such as 2GiB; 0 for no limit." default:"-1"`
	Hash    string `help:"Password hash with {SCHEME}, instead of a password." placeholder:"HASH"`
}

// Run makes the account.
func (c *userAddCmd) Run(ctx context.Context, io stdio) error {
	req := admin.UserRequest{Address: c.Address}
	if c.Quota >= 0 {
		req.Quota = (*int64)(&c.Quota)
	}
	if c.Hash != "" {
		req.Hash = &c.Hash
	} else {
		password, err := readPassword(io, "Password of "+c.Address+": ")
		if err != nil {
			return err
		}
		req.Password = &password
	}
	_, err := call[admin.User](ctx, c.dataFlags, admin.UserAdd, req)
	return done(io, c.dataFlags, err, "account "+c.Address+" added")
}

type userSetCmd struct {
	dataFlags
	Address string `arg:"" help:"The account's address."`
	Quota   *size  `help:"Most the account may hold, such as 2GiB; 0 for no limit, -1 for the default."`
	Disable bool   `help:"Refuse log-in; mail is still taken." xor:"login"`
	Enable  bool   `help:"Allow log-in again." xor:"login"`
}

// Run changes the account.
func (c *userSetCmd) Run(ctx context.Context, io stdio) error {
	req := admin.UserRequest{Address: c.Address, Quota: (*int64)(c.Quota)}
	if c.Disable || c.Enable {
		req.Disabled = &c.Disable
	}
	if req.Quota == nil && req.Disabled == nil {
		return fmt.Errorf("nothing to change: give --quota, --disable or --enable")
	}
	_, err := call[admin.User](ctx, c.dataFlags, admin.UserSet, req)
	return done(io, c.dataFlags, err, "account "+c.Address+" changed")
}

type userRemoveCmd struct {
	dataFlags
	Address string `arg:"" help:"The account's address."`
}

// Run removes the account.
func (c *userRemoveCmd) Run(ctx context.Context, io stdio) error {
	_, err := call[admin.Done](ctx, c.dataFlags, admin.UserRemove, admin.Name{Name: c.Address})
	return done(io, c.dataFlags, err, "account "+c.Address+" removed")
}

type userShowCmd struct {
	dataFlags
	Address string `arg:"" help:"The account's address."`
}

// Run prints the account.
func (c *userShowCmd) Run(ctx context.Context, io stdio) error {
	u, err := call[admin.User](ctx, c.dataFlags, admin.UserShow, admin.Name{Name: c.Address})
	if err != nil {
		return err
	}
	if c.JSON {
		return io.json(u)
	}
	if err := printUsers(io, []admin.User{u}); err != nil {
		return err
	}
	leader := "node " + u.Leader
	if u.Leader == "" {
		leader = "no leader that is known: it has no quorum, or is electing one"
	}
	fmt.Fprintf(io.out, "\nshard %d: led by %s; replicas on %s\n", u.Shard, leader, strings.Join(u.Nodes, ", "))
	return nil
}

type userListCmd struct {
	dataFlags
	Prefix string `arg:"" optional:"" help:"Only addresses that begin so."`
}

// Run prints the accounts.
func (c *userListCmd) Run(ctx context.Context, io stdio) error {
	list, err := pages(ctx, c.dataFlags, admin.UserList, c.Prefix, func(u admin.User) string { return u.Address })
	if err != nil {
		return err
	}
	if c.JSON {
		return io.json(list)
	}
	return printUsers(io, list)
}

func printUsers(io stdio, list []admin.User) error {
	rows := make([][]string, len(list))
	for i, u := range list {
		quota, login, messages, bytes := "none", "yes", "?", "?" // unknown while its shard cannot be asked
		if u.Messages >= 0 {
			messages, bytes = strconv.FormatInt(u.Messages, 10), bytes64(u.Bytes)
		}
		if u.Quota > 0 {
			quota = bytes64(u.Quota)
		}
		if u.Disabled {
			login = "no"
		}
		rows[i] = []string{
			u.Address, strconv.FormatUint(uint64(u.Shard), 10), messages, bytes, quota, login,
		}
	}
	return io.table("address shard messages size quota log-in", rows)
}

type userImportCmd struct {
	dataFlags
	File string `arg:"" help:"The file; - for standard input."`
}

// Bounds of one import request, and of a line, which is the node's.
const (
	importBatch      = 1000
	importBatchBytes = 1 << 20
	maxImportLine    = 4096
)

// Run sends the file to the node in batches.
func (c *userImportCmd) Run(ctx context.Context, std stdio) error {
	in := std.in
	if c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	client, err := c.client()
	if err != nil {
		return err
	}
	defer client.Close()
	imp := importer{client: client, std: std, total: admin.ImportResult{Errors: []string{}}}
	if err := imp.run(ctx, in); err != nil {
		return fmt.Errorf("after %d accounts: %w", imp.total.Added+imp.total.Updated, err)
	}
	return imp.report(c.JSON)
}

// importer sends an import file and adds up the results.
type importer struct {
	client *admin.Client
	std    stdio
	first  int // line number of the first line in batch
	batch  []string
	size   int // of batch, bytes
	total  admin.ImportResult
}

func (i *importer) run(ctx context.Context, in io.Reader) error {
	lines := bufio.NewReaderSize(in, 2*maxImportLine)
	for n := 1; ; n++ {
		text, err := readImportLine(lines)
		if errors.Is(err, io.EOF) {
			return i.send(ctx)
		}
		if err != nil {
			return fmt.Errorf("read line %d: %w", n, err)
		}
		if err := checkText(text); err != nil {
			i.total.Failed++
			i.total.Errors = append(i.total.Errors, fmt.Sprintf("line %d: %v", n, err))
			text = "" // keeps the count of lines
		}
		if len(i.batch) == 0 {
			i.first, i.size = n, 0
		}
		i.batch = append(i.batch, text)
		if i.size += len(text); len(i.batch) == importBatch || i.size > importBatchBytes {
			if err := i.send(ctx); err != nil {
				return err
			}
		}
	}
}

// readImportLine returns the next line without its end. Of one that is too long it
// returns enough for the node to say so.
func readImportLine(r *bufio.Reader) (string, error) {
	line, more, err := r.ReadLine()
	text := string(line)
	for more && err == nil {
		_, more, err = r.ReadLine()
	}
	return text, err
}

func (i *importer) send(ctx context.Context) error {
	if len(i.batch) == 0 {
		return nil
	}
	req := admin.ImportRequest{First: i.first, Lines: i.batch}
	res, err := admin.Call[admin.ImportResult](ctx, i.client, admin.UserImport, req)
	if err != nil {
		return err
	}
	i.total.Added += res.Added
	i.total.Updated += res.Updated
	i.total.Same += res.Same
	i.total.Failed += res.Failed
	i.total.Errors = append(i.total.Errors, res.Errors...)
	i.batch = i.batch[:0]
	if terminal(i.std.err) {
		fmt.Fprintf(i.std.err, "\r%d added, %d updated, %d refused", i.total.Added, i.total.Updated, i.total.Failed)
	}
	return nil
}

// report prints the sums and the first errors; refused lines make the command
// fail.
func (i *importer) report(asJSON bool) error {
	if terminal(i.std.err) {
		fmt.Fprintln(i.std.err)
	}
	if asJSON {
		if err := i.std.json(i.total); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(i.std.out, "%d added, %d updated, %d unchanged, %d refused\n", i.total.Added, i.total.Updated, i.total.Same, i.total.Failed)
		for _, e := range i.total.Errors[:min(20, len(i.total.Errors))] {
			fmt.Fprintln(i.std.err, e)
		}
	}
	if i.total.Failed > 0 {
		return fmt.Errorf("%d lines were refused: mend them and import the file again, what is there already stays", i.total.Failed)
	}
	return nil
}

// size is a number of bytes as people write it: 1048576, 512MiB, 2G.
type size int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *size) UnmarshalText(b []byte) error {
	text := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(string(b)), "B"), "I")
	shift := 0
	if n := len(text); n > 0 {
		if i := strings.IndexByte("KMGT", text[n-1]); i >= 0 {
			shift, text = 10*(i+1), text[:n-1]
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 && string(b) != "-1" || n > 1<<62>>shift {
		return fmt.Errorf("%q is not a size such as 512MiB or 2GiB", b)
	}
	*s = size(n << shift)
	return nil
}
