package mailbox

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage"
)

// An Account is a handle on one account's mailboxes. It holds no state and is
// safe for concurrent use. Names of mailboxes are UTF-8 with '/' between levels.
type Account struct {
	s     *Service
	id    covey.AccountID
	shard covey.ShardID
	quota int64
}

// A Folder is a mailbox as a list shows it.
type Folder struct {
	storage.Mailbox      // ID 0: not made yet, or only a name
	Exists          bool // it can be selected, or has children; else the name is only subscribed to
}

// ID returns the account's id.
func (a *Account) ID() covey.AccountID { return a.id }

// Quota returns the bytes that the account may hold, 0 for no limit.
func (a *Account) Quota() int64 { return a.quota }

// Usage returns what the account uses now.
func (a *Account) Usage(ctx context.Context) (storage.Account, error) {
	r, err := a.s.cfg.Shards.Read(ctx, a.shard)
	if err != nil {
		return storage.Account{}, err
	}
	return r.Account(a.id)
}

// List returns the folders in the order of their names: those that exist, the
// default folders whether used or not, and names only subscribed to.
func (a *Account) List(ctx context.Context) ([]Folder, error) {
	r, err := a.s.cfg.Shards.Read(ctx, a.shard)
	if err != nil {
		return nil, err
	}
	boxes, err := r.Mailboxes(a.id)
	if err != nil {
		return nil, err
	}
	acct, err := r.Account(a.id)
	if err != nil {
		return nil, err
	}
	out := make([]Folder, 0, len(boxes)+6)
	named := make(map[string]int, len(boxes))
	for _, b := range boxes {
		named[b.Name] = len(out)
		out = append(out, Folder{Mailbox: b, Exists: b.ID != 0})
	}
	for _, d := range storage.DefaultFolders() {
		if slices.Contains(acct.Hidden, d.Name) {
			continue
		}
		if i, ok := named[d.Name]; ok {
			if !out[i].Exists {
				out[i] = unused(a.id, d)
			}
			continue
		}
		out = append(out, unused(a.id, d))
	}
	slices.SortFunc(out, func(x, y Folder) int { return strings.Compare(x.Name, y.Name) })
	return out, nil
}

// unused is a default folder that no one has used yet; it is subscribed to, so
// that clients which list only subscriptions find it.
func unused(id covey.AccountID, d storage.DefaultFolder) Folder {
	return Folder{
		Mailbox: storage.Mailbox{Account: id, Name: d.Name, Use: d.Use, Subscribed: true, UIDNext: 1},
		Exists:  true,
	}
}

// Status returns a mailbox with its counts; a default folder is made if this is
// its first use. NotFound if there is no such mailbox.
func (a *Account) Status(ctx context.Context, name string) (storage.Mailbox, error) {
	_, m, err := a.find(ctx, name)
	return m, err
}

// find returns the mailbox and the reader it was found in.
func (a *Account) find(ctx context.Context, name string) (storage.Reader, storage.Mailbox, error) {
	r, err := a.s.cfg.Shards.Read(ctx, a.shard)
	if err != nil {
		return nil, storage.Mailbox{}, err
	}
	m, err := r.Mailbox(a.id, name)
	if !errors.Is(err, covey.NotFound) {
		if err == nil && m.NoSelect {
			err = covey.Errorf(covey.NotFound, "mailbox %q only has children", name)
		}
		return r, m, err
	}
	if shown, herr := a.defaultShown(r, name); herr != nil || !shown {
		return nil, m, errors.Join(herr, err)
	}
	res, err := a.s.cfg.Shards.Propose(ctx, a.shard, storage.CreateMailbox{
		Account: a.id, Name: name, Time: a.s.cfg.Now(), IfMissing: true,
	})
	if err != nil {
		return nil, m, err
	}
	return r, res.Mailbox, nil
}

// defaultShown reports whether name is a default folder that was not deleted.
func (a *Account) defaultShown(r storage.Reader, name string) (bool, error) {
	i := slices.IndexFunc(storage.DefaultFolders(), func(d storage.DefaultFolder) bool {
		return d.Name == name || d.Name == storage.Inbox && strings.EqualFold(name, storage.Inbox)
	})
	if i < 0 {
		return false, nil
	}
	acct, err := r.Account(a.id)
	return err == nil && !slices.Contains(acct.Hidden, name), err
}

// Create makes a mailbox and the levels above it. Exists if it is there, as a
// default folder also before its first use.
func (a *Account) Create(ctx context.Context, name string, use storage.SpecialUse) error {
	if err := a.s.cfg.Room(); err != nil {
		return err
	}
	r, err := a.s.cfg.Shards.Read(ctx, a.shard)
	if err != nil {
		return err
	}
	if shown, err := a.defaultShown(r, name); err != nil {
		return err
	} else if shown {
		return covey.Errorf(covey.Exists, "mailbox %q is a default folder and exists", name)
	}
	return a.propose(ctx, storage.CreateMailbox{
		Account: a.id, Name: name, Use: use, Time: a.s.cfg.Now(), Most: a.s.cfg.MaxMailboxes,
	})
}

// Delete removes a mailbox and its messages; see storage.DeleteMailbox.
func (a *Account) Delete(ctx context.Context, name string) error {
	return a.propose(ctx, storage.DeleteMailbox{Account: a.id, Name: name})
}

// Rename renames a mailbox and all below it; see storage.RenameMailbox.
func (a *Account) Rename(ctx context.Context, from, to string) error {
	if err := a.make(ctx, from); err != nil {
		return err
	}
	r, err := a.s.cfg.Shards.Read(ctx, a.shard)
	if err != nil {
		return err
	}
	if shown, err := a.defaultShown(r, to); err != nil {
		return err
	} else if shown {
		return covey.Errorf(covey.Exists, "mailbox %q is a default folder and exists", to)
	}
	return a.propose(ctx, storage.RenameMailbox{Account: a.id, From: from, To: to, Time: a.s.cfg.Now()})
}

// make sees to it that a default folder that is shown has a row; any other name
// is left to the command that follows.
func (a *Account) make(ctx context.Context, name string) error {
	_, _, err := a.find(ctx, name)
	if errors.Is(err, covey.NotFound) {
		return nil
	}
	return err
}

// Subscribe puts a name, which need not exist, on the list of subscriptions.
func (a *Account) Subscribe(ctx context.Context, name string) error {
	if err := a.make(ctx, name); err != nil {
		return err
	}
	return a.propose(ctx, storage.Subscribe{Account: a.id, Name: name, On: true})
}

// Unsubscribe takes a name off the list; one that is not on it is a success.
func (a *Account) Unsubscribe(ctx context.Context, name string) error {
	if err := a.make(ctx, name); err != nil {
		return err
	}
	return a.propose(ctx, storage.Subscribe{Account: a.id, Name: name})
}

func (a *Account) propose(ctx context.Context, cmd storage.Command) error {
	_, err := a.s.cfg.Shards.Propose(ctx, a.shard, cmd)
	return err
}

// An AppendMessage is what Append needs beside the bytes.
type AppendMessage struct {
	Flags covey.Flags
	Date  time.Time // zero: now
	Size  int64     // of the message in bytes, if known; 0 if not
}

// Append reads a message from r to its end and puts it into a mailbox. NotFound
// if there is no such mailbox, OverQuota, DiskFull. An error of r is returned
// and nothing is stored.
func (a *Account) Append(ctx context.Context, name string, m AppendMessage, r io.Reader) (storage.Placed, error) {
	if err := a.canAppend(ctx, name, m.Size); err != nil {
		return storage.Placed{}, err
	}
	up := a.s.NewUpload([]covey.ShardID{a.shard}, nil)
	defer up.Close()
	if err := up.ReadFrom(ctx, r); err != nil {
		return storage.Placed{}, err
	}
	now := a.s.cfg.Now()
	if m.Date.IsZero() {
		m.Date = now
	}
	res, err := a.s.cfg.Shards.Propose(ctx, a.shard, storage.Append{
		Account: a.id, Mailbox: name, Time: now, Date: m.Date, Flags: m.Flags, Quota: a.quota,
		Summary: up.Summary().Encode(), Body: up.Body(),
	})
	if err != nil {
		return storage.Placed{}, err
	}
	up.Keep()
	return res.Placed[0], nil
}

// canAppend refuses early what the command would refuse after the bytes.
func (a *Account) canAppend(ctx context.Context, name string, size int64) error {
	if err := a.s.cfg.Room(); err != nil {
		return err
	}
	if _, _, err := a.find(ctx, name); err != nil {
		return err
	}
	if a.quota == 0 {
		return nil
	}
	used, err := a.Usage(ctx)
	if err == nil && used.Bytes+size > a.quota {
		err = covey.Errorf(covey.OverQuota, "account holds %d of %d bytes", used.Bytes, a.quota)
	}
	return err
}
