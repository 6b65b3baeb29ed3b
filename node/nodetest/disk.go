package nodetest

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/internal/durable/durabletest"
)

// A disk is what a node stands on whose power may be cut: its log, and who it is,
// lie in memory and lose what was not synced. All else is real, the databases with
// it, and keeps everything, which a power cut may leave too.
type disk struct {
	dir       string
	forgetful *durabletest.Disk
	real      durable.FS
}

func newDisk(dir string) (*disk, error) {
	d := &disk{dir: dir, forgetful: durabletest.NewDisk(), real: durable.OS()}
	return d, d.forgetful.MkdirAll(dir, 0o700)
}

// of returns where a file lies.
func (d *disk) of(name string) durable.FS {
	rest, within := strings.CutPrefix(name, d.dir+string(filepath.Separator))
	first, _, _ := strings.Cut(rest, string(filepath.Separator))
	if within && (first == "log" || strings.HasPrefix(first, "node.toml")) {
		return d.forgetful
	}
	return d.real
}

func (d *disk) Open(name string, flag int, perm os.FileMode) (durable.File, error) {
	f, err := d.of(name).Open(name, flag, perm)
	if err != nil || d.of(name) == d.real {
		return f, err
	}
	return slowFile{f}, nil
}

// A slowFile takes as long to sync as a disk may, so that a power cut finds
// something under way.
type slowFile struct{ durable.File }

const syncTakes = 3 * time.Millisecond

func (f slowFile) Sync() error {
	<-time.After(syncTakes)
	return f.File.Sync()
}

func (d *disk) Rename(oldname, newname string) error { return d.of(oldname).Rename(oldname, newname) }

func (d *disk) Remove(name string) error { return d.of(name).Remove(name) }

func (d *disk) MkdirAll(name string, perm os.FileMode) error { return d.of(name).MkdirAll(name, perm) }

func (d *disk) ReadDir(name string) ([]os.DirEntry, error) { return d.of(name).ReadDir(name) }

func (d *disk) Stat(name string) (os.FileInfo, error) { return d.of(name).Stat(name) }

// SyncDir syncs names on both where the folder has files of both.
func (d *disk) SyncDir(name string) error {
	if name == d.dir {
		if err := d.forgetful.SyncDir(name); err != nil {
			return err
		}
	}
	return d.of(name).SyncDir(name)
}
