package directory

import (
	"crypto/ed25519"
	"strings"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/runhash"
)

// reload replaces what is kept in memory by what the database has, for readers all
// at once. It follows whatever put another database in place; tell comes after it,
// without mu. mu is held.
func (s *State) reload() error {
	m, err := s.db.loadMeta()
	if err != nil {
		return err
	}
	domains, err := s.db.loadDomains()
	if err != nil {
		return err
	}
	c, err := s.db.loadCluster()
	if err != nil {
		return err
	}
	h := newHot(s.cfg)
	if err := s.db.loadAddresses(h.addresses, m.accounts); err != nil {
		return err
	}
	s.viewMu.Lock()
	defer s.viewMu.Unlock()
	s.meta, s.domains, s.cluster, s.hot = m, domains, c, h
	s.hashes = runhash.History{}
	s.hashes.Add(m.applied, m.hash)
	s.changed = everything
	return nil
}

// leastEntry is what an account takes in a book at least.
const leastEntry = 24

// loadAddresses reads all addresses, unless they are too many.
func (db *database) loadAddresses(a *addresses, accounts int64) error {
	if accounts > int64(a.limit/leastEntry) {
		a.forgetAll()
		return nil
	}
	return db.eachAddress(func(domain int64, local string, e entry) {
		if a.whole {
			a.put(domain, local, e)
		}
	})
}

// eachAddress calls f for every address that is an account or an alias.
func (db *database) eachAddress(f func(domain int64, local string, e entry)) error {
	for _, q := range []string{
		"SELECT domain, local, id, shard, quota, created, disabled FROM account",
		"SELECT DISTINCT domain, local, 0 FROM alias",
	} {
		err := db.query(q, nil, func(q *sqlite.Stmt) error {
			f(q.ColumnInt64(0), q.ColumnText(1), scanEntry(q))
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// scanEntry reads the entry of a row that eachAddress asked for.
func scanEntry(q *sqlite.Stmt) entry {
	id := covey.AccountID(q.ColumnInt64(2))
	if id == 0 {
		return entry{kind: anAlias}
	}
	return entry{anAccount, Account{
		ID: id, Shard: covey.ShardID(q.ColumnInt64(3)), Quota: q.ColumnInt64(4),
		Created: unixTime(q.ColumnInt64(5)), Disabled: q.ColumnBool(6),
	}}
}

func unixTime(sec int64) time.Time { return time.Unix(sec, 0).UTC() }

func (db *database) loadMeta() (m meta, err error) {
	found := false
	err = db.query(`SELECT applied, cluster, shards, next_account, next_domain, accounts, unverified, quota,
		postmaster_local, postmaster_domain, level, replicas, rebuild_after, hash FROM meta`, nil, func(q *sqlite.Stmt) error {
		found = true
		m = meta{
			applied:     uint64(q.ColumnInt64(0)),
			shards:      uint32(q.ColumnInt64(2)),
			nextAccount: covey.AccountID(q.ColumnInt64(3)),
			nextDomain:  q.ColumnInt64(4),
			accounts:    q.ColumnInt64(5),
			unverified:  q.ColumnInt64(6),
			quota:       q.ColumnInt64(7),
			postmaster:  covey.Address{Local: q.ColumnText(8), Domain: q.ColumnText(9)},
			level:       uint32(q.ColumnInt64(10)),
			replicas:    int(q.ColumnInt64(11)),
			rebuild:     time.Duration(q.ColumnInt64(12)) * time.Second,
			hash:        uint64(q.ColumnInt64(13)),
		}
		q.ColumnBytes(1, m.cluster[:])
		return nil
	})
	if err == nil && !found {
		err = covey.Errorf(covey.Corrupt, "the meta row is missing")
	}
	return m, err
}

func (db *database) loadDomains() (map[string]domain, error) {
	domains := make(map[string]domain)
	err := db.query("SELECT name, id, created, accounts, aliases FROM domain", nil, func(q *sqlite.Stmt) error {
		domains[q.ColumnText(0)] = domain{
			id: q.ColumnInt64(1), created: unixTime(q.ColumnInt64(2)), accounts: q.ColumnInt64(3), aliases: q.ColumnInt64(4),
		}
		return nil
	})
	return domains, err
}

func (db *database) loadCluster() (*cluster, error) {
	c := &cluster{known: make(map[covey.NodeID]Node), shards: make(map[covey.ShardID][]covey.NodeID)}
	err := db.query(`SELECT id, key, peer, gossip, zone, version, level, state, replaced_by, joined, changed, stamp_count, stamp_mark FROM node`, nil,
		func(q *sqlite.Stmt) error {
			n := Node{
				ID:  covey.NodeID(q.ColumnInt64(0)),
				Key: make(ed25519.PublicKey, q.ColumnLen(1)),
				NodeInfo: NodeInfo{
					Peer: q.ColumnText(2), Gossip: q.ColumnText(3), Zone: q.ColumnText(4), Version: q.ColumnText(5),
					Level: uint32(q.ColumnInt64(6)),
				},
				State:      NodeState(q.ColumnInt64(7)),
				ReplacedBy: covey.NodeID(q.ColumnInt64(8)),
				Joined:     unixTime(q.ColumnInt64(9)),
				Changed:    unixTime(q.ColumnInt64(10)),
				Stamp:      covey.DiskStamp{Count: uint64(q.ColumnInt64(11)), Mark: uint64(q.ColumnInt64(12))},
			}
			if q.ColumnBytes(1, n.Key); len(n.Key) != ed25519.PublicKeySize {
				return covey.Errorf(covey.Corrupt, "node %s: key of %d octets", n.ID, len(n.Key))
			}
			c.known[n.ID] = n
			return nil
		})
	if err != nil {
		return nil, err
	}
	c.listMembers()
	err = db.query("SELECT id, epoch, voters FROM shard", nil, func(q *sqlite.Stmt) error {
		id := covey.ShardID(q.ColumnInt64(0))
		voters, err := parseVoters(q.ColumnText(2))
		if err != nil {
			return covey.Errorf(covey.Corrupt, "voters of shard %d: %w", id, err)
		}
		c.shards[id] = voters
		c.epoch = max(c.epoch, uint64(q.ColumnInt64(1)))
		return nil
	})
	return c, err
}

// formatVoters is how the shard table keeps them.
func formatVoters(voters []covey.NodeID) string {
	text := make([]string, len(voters))
	for i, id := range voters {
		text[i] = id.String()
	}
	return strings.Join(text, " ")
}

func parseVoters(text string) ([]covey.NodeID, error) {
	var voters []covey.NodeID
	for word := range strings.FieldsSeq(text) {
		id, err := covey.ParseNodeID(word)
		if err != nil {
			return nil, err
		}
		voters = append(voters, id)
	}
	return voters, nil
}
