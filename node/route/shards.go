package route

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/wire"
	"github.com/covey-mail/covey/replica"
	"github.com/covey-mail/covey/storage"
)

// Groups are the Raft groups of this node; *replica.Host is one.
type Groups interface {
	Propose(ctx context.Context, id covey.ShardID, cmd []byte) (any, error)
	ReadIndex(ctx context.Context, id covey.ShardID) error
}

// Config is what Shards needs. All but Call is required.
type Config struct {
	Self   covey.NodeID
	Table  *Table
	Groups Groups

	// Local returns the state of a shard that has a replica here.
	Local func(covey.ShardID) (storage.Reader, bool)

	// Call brings a request to another node's Serve and returns its reply.
	// Unavailable: it surely did not arrive; Unknown: it may have. The request is
	// not changed afterwards. Nil: there are no other nodes.
	Call func(ctx context.Context, to covey.NodeID, request ...[]byte) ([]byte, error)
}

// Shards brings commands to the shards of the cluster, wherever they are led. It
// implements mailbox.Shards and is safe for concurrent use.
type Shards struct {
	cfg    Config
	frames sync.Pool // of *[]byte, for encoded commands
}

// NewShards returns Shards. It does no I/O.
func NewShards(cfg Config) *Shards {
	return &Shards{cfg: cfg, frames: sync.Pool{New: func() any { return new([]byte) }}}
}

// Propose implements mailbox.Shards. Of the Result of a shard led by another node
// there are Doubts only: who needs more is on the shard's leader.
func (s *Shards) Propose(ctx context.Context, id covey.ShardID, cmd storage.Command) (*storage.Result, error) {
	frame := s.frames.Get().(*[]byte)
	*frame = storage.AppendEncoded((*frame)[:0], cmd)
	res, err := s.bring(ctx, id, *frame)
	s.frames.Put(frame) // nobody below keeps anything of it
	return res, err
}

// How long a command that was surely not done waits before it is tried again.
const (
	firstPause = 10 * time.Millisecond
	mostPause  = 50 * time.Millisecond
)

// bring takes a command to the shard's leader. One that the leader did not take,
// because it leads no more or hands over just now, or cannot be reached, goes to
// the next, for at most Patience.
func (s *Shards) bring(ctx context.Context, id covey.ShardID, frame []byte) (*storage.Result, error) {
	var last covey.NodeID
	pause := time.Duration(0) // the first redirect is followed at once
	for end := time.Now().Add(Patience); ; {
		leader, err := s.cfg.Table.Leader(ctx, id)
		if err != nil {
			return nil, err
		}
		if leader == last {
			pause = max(pause, firstPause)
		}
		if pause > 0 {
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return nil, covey.Errorf(covey.Unavailable, "shard %d: node %s did not take it: %w", id, last, ctx.Err())
			}
		}
		res, err := s.try(ctx, leader, id, frame)
		if err == nil || !errors.Is(err, errMoved) || !time.Now().Before(end) {
			return res, err
		}
		if last != 0 {
			pause = min(max(2*pause, firstPause), mostPause)
		}
		last = leader
	}
}

// errMoved marks a refusal of a node that does not lead the shard, or that cannot
// be reached: nothing was done, another may.
var errMoved = errors.New("not the leader")

func (s *Shards) try(ctx context.Context, leader covey.NodeID, id covey.ShardID, frame []byte) (*storage.Result, error) {
	if leader == s.cfg.Self {
		return s.propose(ctx, id, frame)
	}
	if s.cfg.Call == nil {
		return nil, covey.Errorf(covey.Unavailable, "shard %d is led by node %s, which cannot be reached", id, leader)
	}
	// The link may still send it when this call has been given up.
	reply, err := s.cfg.Call(ctx, leader, appendHead(make([]byte, 0, 4+len(frame)), id, frame))
	if errors.Is(err, covey.Unavailable) {
		return nil, covey.Errorf(covey.Unavailable, "%w: %w", errMoved, err)
	}
	if err != nil {
		return nil, err
	}
	return s.read(reply, leader, id)
}

// propose has a command applied by this node's own group.
func (s *Shards) propose(ctx context.Context, id covey.ShardID, frame []byte) (*storage.Result, error) {
	v, err := s.cfg.Groups.Propose(ctx, id, frame)
	if errors.Is(err, replica.ErrNotLeading) || errors.Is(err, covey.NotFound) {
		err = covey.Errorf(covey.Unavailable, "%w: %w", errMoved, err)
	}
	if err != nil {
		return nil, err
	}
	res := v.(*storage.Result)
	return res, res.Err
}

// Read implements mailbox.Shards.
func (s *Shards) Read(ctx context.Context, id covey.ShardID) (storage.Reader, error) {
	if err := s.cfg.Groups.ReadIndex(ctx, id); err != nil {
		return nil, err
	}
	return s.Local(id)
}

// Local implements mailbox.Shards.
func (s *Shards) Local(id covey.ShardID) (storage.Reader, error) {
	if r, ok := s.cfg.Local(id); ok {
		return r, nil
	}
	return nil, covey.Errorf(covey.Unavailable, "shard %d has no replica on this node", id)
}

// Reachable returns nil if the shard has a leader that can be reached, and waits
// for one as Table.Leader does.
func (s *Shards) Reachable(ctx context.Context, id covey.ShardID) error {
	_, err := s.cfg.Table.Leader(ctx, id)
	return err
}

// What a reply begins with.
const (
	replyDone    = 0 // the ids of storage.Result.Doubts follow
	replyMoved   = 1 // the term and the leader as this node knows them follow
	replyRefused = 2 // the leader's reason follows: nothing was done
)

// serveTimeout bounds a command that another node has sent, beyond what that node
// waits.
const serveTimeout = 5 * time.Second

// Serve proposes a command that another node sent to this one as the shard's
// leader. It is not passed on to a third.
func (s *Shards) Serve(ctx context.Context, _ covey.NodeID, request []byte) ([]byte, error) {
	r := wire.NewReader(request)
	id := covey.ShardID(r.Uint32())
	if err := r.Err(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, serveTimeout)
	defer cancel()
	res, err := s.propose(ctx, id, r.Raw(r.Len()))
	if err == nil {
		return storage.AppendDeliveryIDs([]byte{replyDone}, res.Doubts), nil
	}
	switch {
	case errors.Is(err, errMoved):
		leader, term := s.cfg.Table.Known(id)
		return wire.AppendUint(wire.AppendUint([]byte{replyMoved}, term), uint64(leader)), nil
	case errors.Is(err, covey.Unavailable): // that of a call means the link's
		return wire.AppendBytes([]byte{replyRefused}, clip(err.Error())), nil
	}
	return nil, err
}

// read takes a reply of Serve.
func (s *Shards) read(reply []byte, from covey.NodeID, id covey.ShardID) (*storage.Result, error) {
	r := wire.NewReader(reply)
	switch r.Byte() {
	case replyDone:
		if doubts := storage.ReadDeliveryIDs(r); r.End() == nil && len(doubts) <= storage.MaxDoubts {
			return &storage.Result{Doubts: doubts}, nil
		}
	case replyMoved:
		term, leader := r.Uint(), covey.NodeID(r.Uint())
		if r.End() == nil {
			if leader != from { // else it is about to hand over
				s.cfg.Table.Disproved(id, from)
				s.cfg.Table.Learn(id, term, leader)
			}
			return nil, covey.Errorf(covey.Unavailable, "shard %d: %w: node %s", id, errMoved, from)
		}
	case replyRefused:
		reason := r.String()
		if r.End() == nil {
			return nil, covey.Errorf(covey.Unavailable, "node %s: %s", from, reason)
		}
	}
	// It was understood, or it could not have been answered.
	return nil, covey.Errorf(covey.Unknown, "shard %d: node %s sent a reply that makes no sense", id, from)
}

// clip bounds a text for people.
func clip(s string) string { return s[:min(len(s), 1024)] }

func appendHead(b []byte, id covey.ShardID, frame []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(id)), frame...)
}
