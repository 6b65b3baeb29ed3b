package node

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/pelletier/go-toml/v2"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
)

// ErrLocked is the error of a data folder that another process uses.
var ErrLocked = errors.New("data folder is in use by a running node")

// folderVersion is the version of the data folder's layout.
const folderVersion = 1

// identity is what DIR/node.toml holds: who the node is. It is written before
// anything else is made in the folder.
type identity struct {
	Version int    `toml:"version"`
	Node    string `toml:"node"`    // covey.NodeID
	Cluster string `toml:"cluster"` // random, 32 hexadecimal digits; empty: in none yet
	Shards  int    `toml:"shards"`  // mailbox shards of the cluster
	Boot    uint64 `toml:"boot"`    // starts so far; part of delivery ids
	Stamp   uint64 `toml:"stamp"`   // covey.DiskStamp.Count
	Mark    uint64 `toml:"mark"`    // covey.DiskStamp.Mark, below 2^63

	// Founding is set from when this node decided to make a cluster until it is
	// made: a start that finds it set goes on with it.
	Founding bool `toml:"founding,omitempty"`

	// Peers are where the cluster was found when this node joined.
	Peers []string `toml:"peers,omitempty"`
}

// folder is a locked data folder.
//
//	node.toml     identity
//	node.key      what the node proves its identity with (internal/peer)
//	cluster.secret  what all nodes of the cluster share, if it is not elsewhere
//	lock          locked (flock) while a node runs
//	log/          the log's segments (storage/seglog)
//	directory.db  the directory's state
//	shards/N.db   each mailbox shard's state
//	tls/          the self-signed certificate, if there is no other
//	reserve       space kept for a full disk
//	reserve.start space kept for a start on one
//	admin.sock, lmtp.sock
type folder struct {
	fs   durable.FS
	dir  string
	id   covey.NodeID
	self identity
	lock *os.File
}

// shardPath is the database of a mailbox shard.
func (f *folder) shardPath(id covey.ShardID) string {
	return f.path("shards", fmt.Sprintf("%04d.db", id))
}

func (f *folder) path(elem ...string) string {
	return filepath.Join(append([]string{f.dir}, elem...)...)
}

// openFolder locks the folder, making it if it is not there.
func openFolder(fs durable.FS, dir string) (*folder, error) {
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data folder: %w", err)
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return nil, err
	}
	f := &folder{fs: fs, dir: dir, lock: lock}
	if err := f.identify(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return f, nil
}

// openOldFolder is openFolder for a folder that must be there already.
func openOldFolder(fs durable.FS, dir string) (*folder, error) {
	for _, name := range []string{"node.toml", "log"} {
		_, err := fs.Stat(filepath.Join(dir, name))
		if err == nil {
			return openFolder(fs, dir)
		}
		if !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	return nil, covey.Errorf(covey.NotFound, "%s is not a data folder of covey: it has no node.toml", dir)
}

func lockFolder(dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data folder: %w", err)
	}
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, errors.Join(fmt.Errorf("%s: %w: stop that node first, or use another data folder", dir, ErrLocked), lock.Close())
	}
	if err != nil { // some network file systems have no locks
		return nil, errors.Join(fmt.Errorf("lock data folder %s: %w: put it on a local disk", dir, err), lock.Close())
	}
	return lock, nil
}

// identify reads node.toml, or makes it in a folder that holds nothing yet.
func (f *folder) identify() error {
	const most = 64 << 10
	b, err := durable.ReadFile(f.fs, f.path("node.toml"), most)
	if errors.Is(err, os.ErrNotExist) {
		return f.create()
	}
	if err != nil {
		return fmt.Errorf("read identity: %w", err)
	}
	if err := toml.Unmarshal(b, &f.self); err != nil {
		return covey.Errorf(covey.Corrupt, "%s is damaged: %v: restore it from a copy; the node must not get a new identity over old data", f.path("node.toml"), err)
	}
	if f.self.Version != folderVersion {
		return covey.Errorf(covey.Invalid, "data folder %s has layout version %d, this program knows %d: use the program version that made it", f.dir, f.self.Version, folderVersion)
	}
	if f.id, err = covey.ParseNodeID(f.self.Node); err == nil {
		err = f.checkCluster()
	}
	if err != nil {
		return covey.Errorf(covey.Corrupt, "%s is damaged: %w: restore it from a copy", f.path("node.toml"), err)
	}
	return nil
}

// checkCluster checks what the identity says of the cluster. A node that is in
// none yet has no log.
func (f *folder) checkCluster() error {
	_, err := f.cluster()
	switch {
	case err != nil:
		return err
	case f.self.Cluster == "":
		if _, err := f.fs.Stat(f.path("log")); err == nil {
			return errors.New("it names no cluster, and there is a log")
		}
	case f.self.Shards < 1 || f.self.Shards > maxShards:
		return fmt.Errorf("%d shards", f.self.Shards)
	}
	return nil
}

func (f *folder) create() error {
	if _, err := f.fs.Stat(f.path("log")); err == nil {
		return covey.Errorf(covey.Corrupt, "data folder %s has a log but no node.toml: restore the file from a copy; the node must not get a new identity over old data", f.dir)
	}
	var b [8]byte
	_, _ = rand.Read(b[:])                                    // never fails (crypto/rand)
	f.id = covey.NodeID(binary.BigEndian.Uint64(b[:])>>1 | 1) // Raft keeps the highest ids for itself
	f.self = identity{Version: folderVersion, Node: f.id.String()}
	return f.save()
}

// cluster returns the id of the cluster that the node is in, zero for none.
func (f *folder) cluster() (id covey.ClusterID, err error) {
	if f.self.Cluster == "" {
		return id, nil
	}
	if n, err := hex.Decode(id[:], []byte(f.self.Cluster)); err != nil || n != len(id) {
		return id, covey.Errorf(covey.Corrupt, "%s: cluster id %q", f.path("node.toml"), f.self.Cluster)
	}
	return id, nil
}

// found decides that this node makes a cluster; it is made when founded is
// called.
func (f *folder) found(shards int) error {
	var id covey.ClusterID
	_, _ = rand.Read(id[:]) // as above
	f.self.Cluster, f.self.Shards, f.self.Founding = id.String(), shards, true
	return f.save()
}

func (f *folder) founded() error {
	if !f.self.Founding {
		return nil
	}
	f.self.Founding = false
	return f.save()
}

// join says which cluster the node is in from now on.
func (f *folder) join(id covey.ClusterID, shards int, peers []string) error {
	f.self.Cluster, f.self.Shards, f.self.Peers = id.String(), shards, peers
	return f.save()
}

// countBoot counts a start; it is on disk before it returns.
func (f *folder) countBoot() error {
	f.self.Boot++
	return f.save()
}

// stamp returns the stamp that the disk has now.
func (f *folder) stamp() covey.DiskStamp {
	return covey.DiskStamp{Count: f.self.Stamp, Mark: f.self.Mark}
}

// restamp gives the disk another stamp, which follows the one it has and all up to a
// count; it is on disk before it returns. After an error the disk has the one or the
// other, and stamp returns the one it had.
func (f *folder) restamp(count uint64) (covey.DiskStamp, error) {
	was := f.stamp()
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	f.self.Stamp, f.self.Mark = max(f.self.Stamp, count)+1, binary.BigEndian.Uint64(b[:])>>1
	if err := f.save(); err != nil {
		f.self.Stamp, f.self.Mark = was.Count, was.Mark // others read the rest
		return covey.DiskStamp{}, err
	}
	return f.stamp(), nil
}

func (f *folder) save() error {
	b, err := toml.Marshal(f.self)
	if err != nil {
		return fmt.Errorf("encode identity: %w", err)
	}
	head := "# Who this node is. Written by covey; do not edit, do not copy to another node.\n"
	if err := durable.WriteFile(f.fs, f.path("node.toml"), append([]byte(head), b...), 0o600); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	return nil
}

// Close unlocks the folder.
func (f *folder) Close() error { return f.lock.Close() }
