package directory

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"zombiezen.com/go/sqlite"

	"github.com/covey-mail/covey/directory/password"
)

// Check verifies the database and the directory's invariants, and returns each
// violation. It holds up changes, and look-ups that miss the cache.
func (s *State) Check(ctx context.Context) []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.readable(); err != nil {
		return []error{err}
	}
	s.db.conn.SetInterrupt(ctx.Done())
	defer s.db.conn.SetInterrupt(nil)
	var found []error
	note := func(format string, args ...any) { found = append(found, fmt.Errorf(format, args...)) }
	if err := s.checkTables(note); err != nil {
		note("check directory: %w", err)
	}
	return found
}

// checkTables calls note for each violation. mu is held.
func (s *State) checkTables(note func(format string, args ...any)) error {
	err := s.db.query("PRAGMA integrity_check(20)", nil, func(q *sqlite.Stmt) error {
		if line := q.ColumnText(0); line != "ok" {
			note("database: %s", line)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, orphans := range []string{
		"SELECT 'account', id FROM account WHERE domain NOT IN (SELECT id FROM domain)",
		"SELECT 'alias', local FROM alias WHERE domain NOT IN (SELECT id FROM domain)",
		"SELECT 'alias and account', alias.local FROM alias JOIN account USING (domain, local)",
		"SELECT 'removed account', account FROM removed WHERE account IN (SELECT id FROM account)",
	} {
		err := s.db.query(orphans, nil, func(q *sqlite.Stmt) error {
			note("%s %s should not be there", q.ColumnText(0), q.ColumnText(1))
			return nil
		})
		if err != nil {
			return err
		}
	}
	if err := s.checkAccounts(note); err != nil {
		return err
	}
	if err := s.checkCounts(note); err != nil {
		return err
	}
	if err := s.checkAddresses(note); err != nil {
		return err
	}
	return s.checkCluster(note)
}

// checkAddresses compares what look-ups read with the database.
func (s *State) checkAddresses(note func(format string, args ...any)) error {
	s.viewMu.Lock()
	whole, young := s.addresses.whole, s.addresses.young.n
	s.viewMu.Unlock()
	n := 0
	err := s.db.eachAddress(func(domain int64, local string, e entry) {
		n++
		s.viewMu.Lock()
		have, known := s.addresses.get(domain, local)
		s.viewMu.Unlock()
		if known && have != e {
			note("address %.64q of domain %d is not in memory as it is on disk", local, domain)
		}
	})
	if whole && n != young {
		note("there are %d addresses, %d in memory", n, young)
	}
	return err
}

func (s *State) checkAccounts(note func(format string, args ...any)) error {
	var accounts, missing int64
	err := s.db.query("SELECT "+accountColumns+" FROM account", nil, func(q *sqlite.Stmt) error {
		a := scanAccount(q, "")
		accounts++
		missing += unverified(a.Hash, a.Verifier)
		if a.ID >= s.meta.nextAccount {
			note("account %d: id is not below the next one, %d", a.ID, s.meta.nextAccount)
		}
		if a.Shard == 0 || uint32(a.Shard) > s.meta.shards {
			note("account %d: there is no shard %d", a.ID, a.Shard)
		}
		if a.Hash != "" && password.Check(a.Hash) != nil {
			note("account %d: its password hash cannot be read", a.ID)
		}
		return nil
	})
	if accounts != s.meta.accounts || missing != s.meta.unverified {
		note("there are %d accounts, %d without SCRAM verifier; counted were %d and %d",
			accounts, missing, s.meta.accounts, s.meta.unverified)
	}
	return err
}

func (s *State) checkCounts(note func(format string, args ...any)) error {
	return s.db.query(`SELECT name, accounts, aliases,
		(SELECT count(*) FROM account WHERE domain = domain.id),
		(SELECT count(DISTINCT local) FROM alias WHERE domain = domain.id) FROM domain`, nil,
		func(q *sqlite.Stmt) error {
			if q.ColumnInt64(1) != q.ColumnInt64(3) || q.ColumnInt64(2) != q.ColumnInt64(4) {
				note("domain %s has %d accounts and %d aliases; counted were %d and %d",
					q.ColumnText(0), q.ColumnInt64(3), q.ColumnInt64(4), q.ColumnInt64(1), q.ColumnInt64(2))
			}
			if d := s.domains[q.ColumnText(0)]; d.accounts != q.ColumnInt64(1) || d.aliases != q.ColumnInt64(2) {
				note("domain %s is not in memory as it is on disk", q.ColumnText(0))
			}
			return nil
		})
}

func (s *State) checkCluster(note func(format string, args ...any)) error {
	disk, err := s.db.loadCluster()
	if err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(disk.shards)) {
		if err := disk.checkVoters(id, disk.shards[id], s.meta.shards); err != nil {
			note("shard map: %w", err)
		}
	}
	if n := len(disk.shards); n > 0 && n != int(s.meta.shards)+1 {
		note("shard map: %d shards of %d and the directory", n, s.meta.shards)
	}
	if !reflect.DeepEqual(disk, s.cluster) {
		note("node list and shard map are not in memory as they are on disk")
	}
	return nil
}
