package directory

import (
	"zombiezen.com/go/sqlite"

	"github.com/covey-mail/covey"
)

// InShard returns the accounts of a shard in the order of their ids, those after
// the given one, at most limit; beyond MaxPage, and for 0, MaxPage. It reads all
// accounts in between: it is meant for slow rounds and for operators.
func (s *Service) InShard(shard covey.ShardID, after covey.AccountID, limit int) ([]Account, error) {
	return s.state.inShard(shard, after, Page{Limit: limit}.limit())
}

func (s *State) inShard(shard covey.ShardID, after covey.AccountID, limit int) ([]Account, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.readable(); err != nil {
		return nil, err
	}
	var list []Account
	err := s.db.query("SELECT "+accountColumns+", domain.name FROM account JOIN domain ON domain.id = account.domain"+
		" WHERE account.id > ?+0 AND account.shard = ?+0 ORDER BY account.id LIMIT ?",
		[]any{int64(after), int64(shard), int64(limit)}, func(q *sqlite.Stmt) error {
			list = append(list, scanAccount(q, q.ColumnText(8)).Account)
			return nil
		})
	return list, err
}
