package quota

import (
	"context"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/wire"
)

// holdTime is how long a call without news is held: less than the 10 s that calls
// have to end on a link that is replaced.
const holdTime = 8 * time.Second

// maxShards bounds the shards in a reply.
const maxShards = 65_536

// Serve answers another node's Watch: at once if it has not the newest, else when
// there is news, or after a few seconds, the same again.
//
// A request is two varints, the version that the caller has; 0 0 for none. A reply
// is two varints, the version that it is of, and lists, the number of elements of
// each before it, all varints: of shards, with each its number and a list of
// accounts, with each its id and the bytes that it holds.
func (b *Board) Serve(ctx context.Context, _ covey.NodeID, request []byte) ([]byte, error) {
	r := wire.NewReader(request)
	has := version{r.Uint(), r.Uint()}
	if err := r.End(); err != nil {
		return nil, covey.Errorf(covey.Invalid, "request for accounts over quota: %w", err)
	}
	timer := time.NewTimer(holdTime)
	defer timer.Stop()
	for {
		reply, changed := b.reply(has)
		if reply != nil {
			return reply, nil
		}
		select {
		case <-changed:
		case <-timer.C:
			has = version{}
		case <-ctx.Done():
			return nil, covey.Errorf(covey.Unavailable, "%w", ctx.Err())
		}
	}
}

// reply returns what there is to tell, or what to wait for if the caller has it.
func (b *Board) reply(has version) ([]byte, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if has == b.version {
		return nil, b.changed
	}
	all := make(told)
	for id, s := range b.led {
		if len(s.over) > 0 {
			all[id] = s.over
		}
	}
	return encode(b.version, all), nil
}

func encode(v version, all told) []byte {
	out := wire.AppendUint(wire.AppendUint(nil, v.run), v.count)
	out = wire.AppendUint(out, uint64(len(all)))
	for id, over := range all {
		out = wire.AppendUint(wire.AppendUint(out, uint64(id)), uint64(len(over)))
		for account, used := range over {
			out = wire.AppendUint(wire.AppendUint(out, uint64(account)), uint64(used))
		}
	}
	return out
}

func decode(b []byte) (version, told, error) {
	r := wire.NewReader(b)
	v := version{r.Uint(), r.Uint()}
	all := make(told)
	shards := r.Count(2)
	if shards > maxShards {
		r.Fail("number of shards")
	}
	accounts := 0
	for range shards {
		id := r.Uint()
		if id != uint64(covey.ShardID(id)) {
			r.Fail("number of a shard")
		}
		count := r.Count(2)
		if accounts += count; accounts > MaxAccounts {
			r.Fail("number of accounts")
		}
		if r.Err() != nil {
			break
		}
		over := make(map[covey.AccountID]int64, count)
		for range count {
			account, used := covey.AccountID(r.Uint()), int64(r.Uint())
			if used < 0 {
				r.Fail("bytes of an account")
			}
			over[account] = used
		}
		all[covey.ShardID(id)] = over
	}
	if err := r.End(); err != nil {
		return version{}, nil, covey.Errorf(covey.Internal, "accounts over quota: %w", err)
	}
	return v, all, nil
}

// Watch follows what another node tells, until ctx ends or call fails, whose error
// it returns. call brings a request to that node's Serve, which may take
// a while to answer. What is known of the node stays: it counts only while
// the node leads.
func (b *Board) Watch(ctx context.Context, from covey.NodeID, call func(ctx context.Context, request []byte) ([]byte, error)) error {
	var has version
	for {
		try, cancel := context.WithTimeout(ctx, 2*holdTime)
		reply, err := call(try, wire.AppendUint(wire.AppendUint(nil, has.run), has.count))
		cancel()
		if err != nil {
			return err
		}
		v, all, err := decode(reply)
		if err != nil {
			return err
		}
		if v == has { // its time was up
			continue
		}
		has = v
		b.mu.Lock()
		b.heard[from] = all
		b.mu.Unlock()
	}
}

// Forget drops what a node told that is no member any more.
func (b *Board) Forget(from covey.NodeID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.heard, from)
}
