package node

import (
	"context"
	"sync"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/internal/wire"
	"github.com/covey-mail/covey/node/admin"
)

// holding is what an account has in its shard.
type holding struct{ bytes, messages int64 }

// unknown is what an account has in a shard that cannot be asked.
var unknown = holding{-1, -1}

// users describes accounts, and asks other nodes for what is there.
func (n *Node) users(ctx context.Context, accounts []directory.Account) ([]admin.User, error) {
	held, err := n.holdings(ctx, accounts)
	if err != nil {
		return nil, err
	}
	list := make([]admin.User, len(accounts))
	for i, a := range accounts {
		leader, _ := n.table.Known(a.Shard)
		list[i] = admin.User{
			Address: a.Address.String(), ID: a.ID, Shard: a.Shard, Quota: a.Quota, Disabled: a.Disabled, Created: a.Created,
			Bytes: held[i].bytes, Messages: held[i].messages,
			Nodes: nodeNames(n.directory.Voters(a.Shard)), Leader: nodeName(leader),
		}
	}
	return list, nil
}

// user describes one account.
func (n *Node) user(ctx context.Context, a directory.Account) (admin.User, error) {
	list, err := n.users(ctx, []directory.Account{a})
	if err != nil {
		return admin.User{}, err
	}
	return list[0], nil
}

// holdings returns what accounts have: of shards with a replica here as that knows
// it, of others as their leaders do.
func (n *Node) holdings(ctx context.Context, accounts []directory.Account) ([]holding, error) {
	held := make([]holding, len(accounts))
	ask := make(map[covey.NodeID][]int) // indexes
	for i, a := range accounts {
		held[i] = unknown
		if r, here := n.states.reader(a.Shard); here {
			is, err := r.Account(a.ID)
			if err != nil {
				return nil, err
			}
			held[i] = holding{is.Bytes, is.Messages}
		} else if leader, _ := n.table.Known(a.Shard); leader != 0 && leader != n.folder.id {
			ask[leader] = append(ask[leader], i)
		}
	}
	if n.links.Net == nil || len(ask) == 0 {
		return held, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var asked sync.WaitGroup
	for leader, indexes := range ask {
		asked.Go(func() {
			n.askHoldings(ctx, leader, accounts, indexes, held)
		})
	}
	asked.Wait()
	return held, nil
}

// askHoldings fills in those of held that indexes names.
func (n *Node) askHoldings(ctx context.Context, leader covey.NodeID, accounts []directory.Account, indexes []int, held []holding) {
	req := wire.AppendUint(nil, uint64(len(indexes)))
	for _, i := range indexes {
		req = wire.AppendUint(wire.AppendUint(req, uint64(accounts[i].Shard)), uint64(accounts[i].ID))
	}
	b, err := n.links.Call(ctx, leader, methodAccounts, req)
	if err != nil {
		return // what they hold stays unknown
	}
	r := wire.NewReader(b)
	got := make([]holding, len(indexes))
	for i := range got {
		got[i] = holding{r.Int(), r.Int()}
	}
	if r.End() != nil {
		return
	}
	for k, i := range indexes {
		held[i] = got[k]
	}
}

// maxHoldings bounds the accounts of one question; a page of accounts has fewer.
const maxHoldings = directory.MaxPage

// serveAccounts answers askHoldings.
func (n *Node) serveAccounts(_ context.Context, _ covey.NodeID, req []byte) ([]byte, error) {
	r := wire.NewReader(req)
	count := r.Count(2)
	if count > maxHoldings {
		r.Fail("number of accounts")
	}
	var reply []byte
	for range count {
		shard, account := r.Uint(), covey.AccountID(r.Uint())
		if r.Err() != nil {
			break
		}
		held := unknown
		if state, here := n.states.reader(covey.ShardID(shard)); here && shard == uint64(covey.ShardID(shard)) {
			if is, err := state.Account(account); err == nil {
				held = holding{is.Bytes, is.Messages}
			}
		}
		reply = wire.AppendInt(wire.AppendInt(reply, held.bytes), held.messages)
	}
	return reply, r.End()
}
