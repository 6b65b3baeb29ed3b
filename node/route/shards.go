package route

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/wire"
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

// Propose implements mailbox.Shards. The Result of a shard led by another node
// says only that all went well: who needs more is on the shard's leader.
func (s *Shards) Propose(ctx context.Context, id covey.ShardID, cmd storage.Command) (*storage.Result, error) {
	frame := s.frames.Get().(*[]byte)
	*frame = storage.AppendEncoded((*frame)[:0], cmd)
	res, err := s.bring(ctx, id, *frame)
	s.frames.Put(frame) // nobody below keeps anything of it
	return res, err
}

// bring takes a command to the shard's leader and follows one redirect.
func (s *Shards) bring(ctx context.Context, id covey.ShardID, frame []byte) (*storage.Result, error) {
	leader, err := s.cfg.Table.Leader(ctx, id)
	if err != nil {
		return nil, err
	}
	res, err := s.try(ctx, leader, id, frame)
	if err == nil || !errors.Is(err, errMoved) {
		return res, err
	}
	next, lerr := s.cfg.Table.Leader(ctx, id)
	if lerr != nil || next == leader {
		return nil, err
	}
	return s.try(ctx, next, id, frame)
}

// errMoved marks a refusal of a node that does not lead the shard: nothing was
// done, another may.
var errMoved = errors.New("not the leader")

func (s *Shards) try(ctx context.Context, leader covey.NodeID, id covey.ShardID, frame []byte) (*storage.Result, error) {
	if leader == s.cfg.Self {
		res, err := s.propose(ctx, id, frame)
		if errors.Is(err, covey.Unavailable) {
			if now, _ := s.cfg.Table.Known(id); now != leader { // it has moved away just now
				err = covey.Errorf(covey.Unavailable, "%w: %w", errMoved, err)
			}
		}
		return res, err
	}
	if s.cfg.Call == nil {
		return nil, covey.Errorf(covey.Unavailable, "shard %d is led by node %s, which cannot be reached", id, leader)
	}
	// The link may still send it when this call has been given up.
	reply, err := s.cfg.Call(ctx, leader, appendHead(make([]byte, 0, 4+len(frame)), id, frame))
	if err != nil {
		return nil, err
	}
	return s.read(reply, leader, id)
}

// propose has a command applied by this node's own group.
func (s *Shards) propose(ctx context.Context, id covey.ShardID, frame []byte) (*storage.Result, error) {
	v, err := s.cfg.Groups.Propose(ctx, id, frame)
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
	replyDone  = 0 // nothing follows
	replyMoved = 1 // the term and the leader as this node knows them follow
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
	_, err := s.propose(ctx, id, r.Raw(r.Len()))
	if err == nil {
		return []byte{replyDone}, nil
	}
	leader, term := s.cfg.Table.Known(id)
	if leader != s.cfg.Self && (errors.Is(err, covey.Unavailable) || errors.Is(err, covey.NotFound)) {
		return wire.AppendUint(wire.AppendUint([]byte{replyMoved}, term), uint64(leader)), nil
	}
	return nil, err
}

// read takes a reply of Serve.
func (s *Shards) read(reply []byte, from covey.NodeID, id covey.ShardID) (*storage.Result, error) {
	r := wire.NewReader(reply)
	switch r.Byte() {
	case replyDone:
		if r.End() == nil {
			return new(storage.Result), nil
		}
	case replyMoved:
		term, leader := r.Uint(), covey.NodeID(r.Uint())
		if r.End() == nil {
			s.cfg.Table.Disproved(id, from)
			if leader != from {
				s.cfg.Table.Learn(id, term, leader)
			}
			return nil, covey.Errorf(covey.Unavailable, "shard %d: %w: node %s", id, errMoved, from)
		}
	}
	// It was understood, or it could not have been answered.
	return nil, covey.Errorf(covey.Unknown, "shard %d: node %s sent a reply that makes no sense", id, from)
}

func appendHead(b []byte, id covey.ShardID, frame []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(id)), frame...)
}
