package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/node/admin"
)

// startAdmin opens the admin socket.
func (n *Node) startAdmin(context.Context) error {
	l, err := listenPrivate(n.folder.dir, admin.SocketName)
	if err != nil {
		return fmt.Errorf("open admin socket: %w", err)
	}
	n.fronts.admin = serveHTTP(l, n.adminHandler(), n.log)
	return nil
}

// listenPrivate opens a Unix socket that was never open to other users: it is
// made in a folder of ours alone, and moved to its name when its mode is right.
// The data folder itself may let others in.
func listenPrivate(dir, name string) (net.Listener, error) {
	path, hidden := filepath.Join(dir, name), filepath.Join(dir, ".sock")
	const most = 107 // sun_path (unix(7))
	if len(path) > most {
		return nil, covey.Errorf(covey.Invalid, "%s: the path of a socket has at most %d octets: use a data folder with a shorter path", path, most)
	}
	if err := os.RemoveAll(hidden); err != nil {
		return nil, err
	}
	if err := os.Mkdir(hidden, 0o700); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(hidden, "s"), Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // by that name it will not be there
	err = os.Chmod(filepath.Join(hidden, "s"), 0o600)
	if err == nil {
		err = os.Rename(filepath.Join(hidden, "s"), path)
	}
	if err == nil {
		err = os.Remove(hidden)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &privateSocket{l, path}, nil
}

// privateSocket removes its name when it is closed.
type privateSocket struct {
	net.Listener
	path string
}

// Close implements net.Listener.
func (s *privateSocket) Close() error {
	err := os.Remove(s.path)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, s.Listener.Close())
}

func (n *Node) adminHandler() http.Handler {
	mux := http.NewServeMux()
	admin.Handle(mux, admin.DomainAdd, n.domainAdd)
	admin.Handle(mux, admin.DomainRemove, n.domainRemove)
	admin.Handle(mux, admin.DomainList, n.domainList)
	admin.Handle(mux, admin.UserAdd, n.userAdd)
	admin.Handle(mux, admin.UserSet, n.userSet)
	admin.Handle(mux, admin.UserRemove, n.userRemove)
	admin.Handle(mux, admin.UserShow, n.userShow)
	admin.Handle(mux, admin.UserList, n.userList)
	admin.Handle(mux, admin.UserImport, n.userImport)
	admin.Handle(mux, admin.AliasAdd, n.aliasAdd)
	admin.Handle(mux, admin.AliasSet, n.aliasSet)
	admin.Handle(mux, admin.AliasRemove, n.aliasRemove)
	admin.Handle(mux, admin.AliasList, n.aliasList)
	admin.Handle(mux, admin.NodeStatus, n.status)
	admin.Handle(mux, admin.NodeHealth, n.health)
	admin.Handle(mux, admin.NodeDrain, n.nodeDrain)
	admin.Handle(mux, admin.NodeRemove, n.nodeRemove)
	admin.Handle(mux, admin.NodeReplace, n.nodeReplace)
	admin.Handle(mux, admin.NodeLoss, n.nodeLoss)
	admin.Handle(mux, admin.UserInShard, n.userInShard)
	admin.Handle(mux, admin.ClusterSet, n.clusterSet)
	admin.Handle(mux, admin.QueueList, n.queueList)
	admin.Handle(mux, admin.SecretList, n.secretList)
	admin.Handle(mux, admin.SecretRotate, n.secretRotate)
	admin.Handle(mux, admin.Compare, n.compareAll)
	admin.Handle(mux, admin.NodeCheck, func(ctx context.Context, _ admin.Empty) (admin.CheckResult, error) {
		return n.check(ctx), nil
	})
	return mux
}

func (n *Node) domainAdd(ctx context.Context, r admin.Name) (admin.Done, error) {
	return admin.Done{}, n.directory.AddDomain(ctx, r.Name)
}

func (n *Node) domainRemove(ctx context.Context, r admin.Name) (admin.Done, error) {
	return admin.Done{}, n.directory.RemoveDomain(ctx, r.Name)
}

func (n *Node) domainList(context.Context, admin.Empty) ([]admin.Domain, error) {
	list := []admin.Domain{}
	for _, d := range n.directory.Domains() {
		list = append(list, admin.Domain{Name: d.Name, Accounts: int(d.Accounts), Aliases: int(d.Aliases)})
	}
	return list, nil
}

func (n *Node) userAdd(ctx context.Context, r admin.UserRequest) (admin.User, error) {
	addr, err := covey.ParseAddress(r.Address)
	if err != nil {
		return admin.User{}, err
	}
	secret, err := r.Secret()
	if err != nil {
		return admin.User{}, err
	}
	quota := int64(directory.DefaultQuota)
	if r.Quota != nil && *r.Quota >= 0 {
		quota = *r.Quota
	}
	a, err := n.directory.AddAccount(ctx, addr, secret, quota)
	if err != nil {
		return admin.User{}, err
	}
	if r.Disabled != nil {
		if err := n.directory.SetAccount(ctx, addr, nil, r.Disabled); err != nil {
			return admin.User{}, err
		}
		a.Disabled = *r.Disabled
	}
	return n.user(ctx, a)
}

func (n *Node) userSet(ctx context.Context, r admin.UserRequest) (admin.User, error) {
	addr, err := covey.ParseAddress(r.Address)
	if err != nil {
		return admin.User{}, err
	}
	if r.Password != nil || r.Hash != nil {
		secret, err := r.Secret()
		if err != nil {
			return admin.User{}, err
		}
		if err := n.directory.SetPassword(ctx, addr, secret); err != nil {
			return admin.User{}, err
		}
	}
	if r.Quota != nil || r.Disabled != nil {
		quota := r.Quota
		if quota != nil && *quota < 0 {
			d := int64(directory.DefaultQuota)
			quota = &d
		}
		if err := n.directory.SetAccount(ctx, addr, quota, r.Disabled); err != nil {
			return admin.User{}, err
		}
	}
	return n.userShow(ctx, admin.Name{Name: r.Address})
}

func (n *Node) userRemove(ctx context.Context, r admin.Name) (admin.Done, error) {
	addr, err := covey.ParseAddress(r.Name)
	if err != nil {
		return admin.Done{}, err
	}
	d, err := n.directory.RemoveAccount(ctx, addr)
	if err != nil {
		return admin.Done{}, err
	}
	if err := n.drop(ctx, d); err != nil {
		n.log.Warn("account removed; its mail goes when its shard can be reached", "address", r.Name, "err", err)
	}
	return admin.Done{}, nil
}

func (n *Node) userShow(ctx context.Context, r admin.Name) (admin.User, error) {
	addr, err := covey.ParseAddress(r.Name)
	if err != nil {
		return admin.User{}, err
	}
	a, err := n.directory.Lookup(ctx, addr)
	if err != nil {
		return admin.User{}, err
	}
	return n.user(ctx, a)
}

func (n *Node) userList(ctx context.Context, p admin.Page) ([]admin.User, error) {
	page, err := directoryPage(p)
	if err != nil {
		return nil, err
	}
	accounts, err := n.directory.Accounts(page)
	if err != nil {
		return nil, err
	}
	return n.users(ctx, accounts)
}

// directoryPage reads a page whose names are addresses. A prefix with an @ names
// the domain too.
func directoryPage(p admin.Page) (directory.Page, error) {
	const most = 1000
	local, domain, _ := cutAddress(p.Prefix)
	page := directory.Page{Domain: domain, Prefix: local, Limit: most}
	if p.Limit > 0 {
		page.Limit = min(p.Limit, most)
	}
	if p.After != "" {
		local, domain, ok := cutAddress(p.After)
		if !ok {
			return page, covey.Errorf(covey.Invalid, "page after %q: want an address", p.After)
		}
		page.After = covey.Address{Local: local, Domain: domain}
	}
	return page, nil
}

func (n *Node) aliasAdd(ctx context.Context, r admin.Alias) (admin.Done, error) {
	addr, targets, err := parseAlias(r)
	if err != nil {
		return admin.Done{}, err
	}
	return admin.Done{}, n.directory.AddAlias(ctx, addr, targets...)
}

func (n *Node) aliasSet(ctx context.Context, r admin.Alias) (admin.Done, error) {
	addr, targets, err := parseAlias(r)
	if err != nil {
		return admin.Done{}, err
	}
	return admin.Done{}, n.directory.SetAlias(ctx, addr, targets...)
}

func (n *Node) aliasRemove(ctx context.Context, r admin.Name) (admin.Done, error) {
	addr, err := aliasAddress(r.Name)
	if err != nil {
		return admin.Done{}, err
	}
	return admin.Done{}, n.directory.RemoveAlias(ctx, addr)
}

func (n *Node) aliasList(_ context.Context, p admin.Page) ([]admin.Alias, error) {
	page, err := directoryPage(p)
	if err != nil {
		return nil, err
	}
	aliases, err := n.directory.Aliases(page)
	if err != nil {
		return nil, err
	}
	list := make([]admin.Alias, len(aliases))
	for i, a := range aliases {
		list[i].Address = aliasName(a.Address)
		for _, t := range a.Targets {
			list[i].Targets = append(list[i].Targets, t.String())
		}
	}
	return list, nil
}
