package nodetest

import (
	"errors"
	"os"
	"time"

	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/internal/durable/durabletest"
	"github.com/covey-mail/covey/internal/durable/durabletest/sqlitedisk"
	"github.com/covey-mail/covey/internal/peer"
)

// A disk is what a node stands on whose power may be cut: its data folder, databases
// and all, and the secret of the cluster lie in memory and lose what was not synced.
// Real are the lock of the folder and its sockets, which are no data; the room that
// there is on the disk; and files that SQLite has no name for.
type disk struct {
	*durabletest.Disk
	vfs *sqlitedisk.VFS // the same, for SQLite
}

// newDisk returns a disk with an empty data folder, and the secret in a file.
func newDisk(dir, secret string) (*disk, error) {
	list, err := peer.ReadSecrets(durable.OS(), secret)
	if err != nil {
		return nil, err
	}
	d := &disk{Disk: durabletest.NewDisk()}
	if err := errors.Join(d.MkdirAll(dir, 0o700), os.MkdirAll(dir, 0o700), peer.WriteSecrets(d.Disk, secret, list)); err != nil {
		return nil, err
	}
	d.vfs, err = sqlitedisk.Register(d)
	return d, err
}

// Open implements durable.FS.
func (d *disk) Open(name string, flag int, perm os.FileMode) (durable.File, error) {
	f, err := d.Disk.Open(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return slowFile{f}, nil
}

// A slowFile takes as long to sync as a disk may, so that a power cut finds
// something under way.
type slowFile struct{ durable.File }

const syncTakes = 3 * time.Millisecond

// Sync implements durable.File.
func (f slowFile) Sync() error {
	<-time.After(syncTakes)
	return f.File.Sync()
}
