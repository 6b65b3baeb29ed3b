package replica

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"go.etcd.io/raft/v3"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/snapshot"
	"github.com/covey-mail/covey/storage/seglog"
)

// A StateMachine is what a group's commands are applied to. The host calls all
// but Applied from one goroutine at a time.
type StateMachine interface {
	// Applied returns the index of the last command that is part of the state,
	// 0 for none.
	Applied() uint64

	// Apply applies commands in order and returns one result for each, as
	// Propose hands it to the caller. Their indexes ascend and lie above
	// Applied, not without gaps. Nothing need be durable: the log is. A state
	// machine that cannot go on must panic; its group is then stopped.
	Apply(commands []seglog.Command) []any

	// Checkpoint makes the state durable and returns the index up to which it
	// is. After an error the host tries again later; the state must still be
	// usable, after Recover if the error is DiskFull.
	Checkpoint() (uint64, error)

	// Recover follows a panic of Apply or an error of Checkpoint that is
	// DiskFull. It returns to what is durable, calls replay once with its index,
	// and has apply, which is as Apply, take all commands that replay hands it.
	// It needs no room on the disk, and nobody sees an older state than before
	// meanwhile. An error, and a panic, stop the group.
	Recover(replay Replay) error

	// Close releases what the state machine holds. It is the last call.
	Close() error
}

// A Replay hands apply the commands above an index, in order.
type Replay = func(after uint64, apply func([]seglog.Command) []any) error

// A Snapshotter is a StateMachine whose state can be copied to another node, for
// a replica that needs entries which the log no longer has. Add looks whether a
// StateMachine is one.
type Snapshotter interface {
	// Snapshot opens a copy of the state as it is now, for another node to take
	// in; later commands do not change it. Where an older copy is open already it
	// may return that one: Index tells. It is called by the goroutine that calls
	// Apply and should be quick. Several may be open at a time. The host closes
	// them all before Close. DiskFull: Recover follows.
	Snapshot() (snapshot.Snapshot, error)

	// Restore begins to take in the copy of another replica. The present state
	// serves, and takes commands, until Install. What a crash left of an earlier
	// one is gone by then. It is called by any goroutine, also beside Apply; at
	// most one Restorer is open at a time.
	Restore() (snapshot.Restorer, error)

	// Install replaces the state by a staged copy, of which it takes possession.
	// When it returns nil, the new state is durable, with meta: Applied is the
	// index that Stage returned, and Installed is meta, also after a crash. A
	// crash on the way leaves the old state or the new one, each with its own
	// meta. It is called by the goroutine that calls Apply. DiskFull says that
	// nothing has happened yet and it may be called again; after any other error
	// the group is stopped. meta is at most snapshot.MetaSize bytes.
	Install(r snapshot.Restorer, meta []byte) error

	// Installed returns what the last Install was given, for good: later commands
	// and checkpoints do not change it. nil: there was none, or it was given to
	// the replica that this state was copied from. It is asked once, in Add, which
	// by it tells a log that was lost from one whose mark of the snapshot a crash
	// prevented. The caller does not change it.
	Installed() []byte
}

// A SnapshotRequest asks a leader for a chunk of the copy that it offers.
type SnapshotRequest struct {
	Group covey.ShardID
	ID    uint64 // of the copy
	Chunk uint64
}

// A Transport carries messages to the other nodes.
type Transport interface {
	// Send passes messages on in order or drops some or all of them; it never
	// blocks. It owns the slice from then on, not what the entries point to.
	// It is called by one goroutine at a time.
	Send(to covey.NodeID, messages []Message)

	// Fetch has Host.ServeSnapshot called on another node and returns what that
	// returned, kinds of error included. It blocks until then, or until ctx ends,
	// and is called by several goroutines. Unavailable if the node cannot be
	// reached. The bytes are the caller's.
	Fetch(ctx context.Context, from covey.NodeID, req SnapshotRequest) ([]byte, error)
}

// Config is what a Host is made with. Node and Log must be set; the zero value
// of everything else means its default.
type Config struct {
	Node      covey.NodeID
	Log       *seglog.Log
	Transport Transport // nil: no other nodes

	Tick           time.Duration // Raft's clock; 100 ms
	ElectionTicks  int           // ticks without a leader before an election; 10
	HeartbeatTicks int           // ticks between a leader's heartbeats; 1

	// Forward has the groups whose members send proposals to the leader. In others
	// only the leader takes them, and the refusal says who leads.
	Forward []covey.ShardID

	// What may wait, for each group. A leader refuses more with Unavailable.
	MaxProposals     int   // proposals not yet answered; 8,192
	MaxProposalBytes int64 // and their bytes; 64 MiB
	MaxReads         int   // callers of ReadIndex; 16,384
	MaxApplyBytes    int64 // committed entries not yet applied; beyond, the group waits; 16 MiB

	// MaxInboundBytes bounds the messages of peers that wait for the loop, over
	// all groups; more are dropped, as a network may. 64 MiB.
	MaxInboundBytes int64

	// Checkpoints, one group after the other: a group is due when this long has
	// passed and it applied something, or when it applied that many bytes.
	CheckpointEvery time.Duration // 60 s
	CheckpointBytes int64         // 64 MiB

	// Unknown is told when a message comes for a group that is not here, so that
	// the node can look whether it should be, and Add it. It is called for every
	// such message, by whoever calls Step, and must not block.
	Unknown func(group covey.ShardID, from covey.NodeID)

	// Led is told when a group's leader or term, as seen here, changes. It is
	// called in order, by one goroutine, and must not block.
	Led func(Leadership)

	Logger  *slog.Logger // nil: nothing is logged
	Metrics *Metrics     // nil: counted, but for nobody
}

// MaxCommand is the length in bytes of the longest command. One that is longer
// could never fit into the window between a leader and its followers.
const MaxCommand = maxInflightBytes / 2

const (
	maxUncommittedBytes = 64 << 20
	maxInflightBytes    = 8 << 20
	maxInflightMessages = 256
	maxMessageBytes     = 1 << 20
)

func (c *Config) fill() error {
	if c.Node == 0 || raft.IsLocalMsgTarget(uint64(c.Node)) {
		return covey.Errorf(covey.Invalid, "replica: node id %s cannot be used", c.Node)
	}
	if c.Log == nil {
		return covey.Errorf(covey.Invalid, "replica: no log")
	}
	setDefault(&c.Tick, 100*time.Millisecond)
	setDefault(&c.ElectionTicks, 10)
	setDefault(&c.HeartbeatTicks, 1)
	setDefault(&c.MaxProposals, 8192)
	setDefault(&c.MaxProposalBytes, 64<<20)
	setDefault(&c.MaxReads, 16384)
	setDefault(&c.MaxApplyBytes, 16<<20)
	setDefault(&c.MaxInboundBytes, 64<<20)
	setDefault(&c.CheckpointEvery, time.Minute)
	setDefault(&c.CheckpointBytes, 64<<20)
	if c.Tick < 0 || c.HeartbeatTicks < 0 || c.ElectionTicks <= c.HeartbeatTicks {
		return covey.Errorf(covey.Invalid, "replica: tick %v, heartbeat %d, election %d: want 0 < heartbeat < election",
			c.Tick, c.HeartbeatTicks, c.ElectionTicks)
	}
	if c.MaxProposals < 0 || c.MaxProposalBytes < 0 || c.MaxReads < 0 || c.MaxApplyBytes < 0 || c.MaxInboundBytes < 0 ||
		c.CheckpointEvery < 0 || c.CheckpointBytes < 0 {
		return covey.Errorf(covey.Invalid, "replica: a bound is negative")
	}
	c.Forward = slices.Clone(c.Forward)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics()
	}
	return nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// raftConfig is how every group runs. Proposals are not forwarded to the leader
// by Raft: the sender could then not tell a lost one from one that is done.
func (c *Config) raftConfig(log raft.Storage, applied uint64, logger raft.Logger) *raft.Config {
	return &raft.Config{
		ID:                        uint64(c.Node),
		ElectionTick:              c.ElectionTicks,
		HeartbeatTick:             c.HeartbeatTicks,
		Storage:                   log,
		Applied:                   applied,
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             maxMessageBytes,
		MaxCommittedSizePerReady:  uint64(c.MaxApplyBytes),
		MaxUncommittedEntriesSize: maxUncommittedBytes,
		MaxInflightMsgs:           maxInflightMessages,
		MaxInflightBytes:          maxInflightBytes,
		CheckQuorum:               true,
		PreVote:                   true,
		ReadOnlyOption:            raft.ReadOnlySafe,
		Logger:                    logger,
		DisableProposalForwarding: true,
		StepDownOnRemoval:         true,
	}
}
