package replica

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/wire"
)

// A Message is one message of a group to the same group on another node: one of
// Raft's, a command for the leader to propose, or what became of that.
type Message struct {
	Group    covey.ShardID
	Message  *raftpb.Message // shared with the log's cache: not to be changed; nil: one of the others
	Proposal *Proposal
	Answer   *Answer

	// Since tells the lives of a replica apart: the index of the membership change
	// in this term that made the follower a member, 0 for none. The leader says it,
	// the follower repeats it.
	Since uint64
}

// A Proposal asks the leader of a term to propose a command for another member.
type Proposal struct {
	Term uint64
	Data []byte // of the entry, see the package comment
}

// An Answer tells what became of a Proposal.
type Answer struct {
	Term  uint64
	Nonce uint64     // of the proposal's entry
	Index uint64     // of that entry in the log; 0: refused
	Kind  covey.Kind // why it was refused
	Text  string     // the same, for the log and the operator
}

// The encoding of messages, version 1: one octet version; then for each message
// one octet kind (1 Raft, 2 proposal, 3 answer), group, and
//
//	1  since; length and octets of the protocol buffer raftpb.Message
//	2  term; length and octets of the data
//	3  term; nonce, 8 octets; index; kind, one octet; length and octets of the text
//
// with numbers as internal/wire writes them.
const (
	messagesVersion = 1

	kindRaft     = 1
	kindProposal = 2
	kindAnswer   = 3

	maxAnswerText = 512
)

// AppendMessages appends the encoding of messages for ParseMessages.
func AppendMessages(b []byte, messages []Message) ([]byte, error) {
	b = append(b, messagesVersion)
	for _, m := range messages {
		var err error
		switch {
		case m.Message != nil:
			b = wire.AppendUint(append(b, kindRaft), uint64(m.Group))
			b = wire.AppendUint(b, m.Since)
			b = wire.AppendUint(b, uint64(proto.Size(m.Message)))
			b, err = proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, m.Message)
		case m.Proposal != nil:
			b = wire.AppendUint(append(b, kindProposal), uint64(m.Group))
			b = wire.AppendUint(b, m.Proposal.Term)
			b = wire.AppendBytes(b, m.Proposal.Data)
		case m.Answer != nil:
			a := m.Answer
			b = wire.AppendUint(append(b, kindAnswer), uint64(m.Group))
			b = wire.AppendUint(b, a.Term)
			b = binary.LittleEndian.AppendUint64(b, a.Nonce)
			b = wire.AppendUint(b, a.Index)
			b = append(b, byte(a.Kind))
			b = wire.AppendBytes(b, cutText(a.Text))
		}
		if err != nil {
			return nil, fmt.Errorf("encode message: %w", err)
		}
	}
	return b, nil
}

// AppendSnapshotRequest appends the encoding of a request for
// ParseSnapshotRequest: group, id in 8 octets, chunk.
func AppendSnapshotRequest(b []byte, req SnapshotRequest) []byte {
	b = wire.AppendUint(b, uint64(req.Group))
	b = binary.LittleEndian.AppendUint64(b, req.ID)
	return wire.AppendUint(b, req.Chunk)
}

// ParseSnapshotRequest decodes what AppendSnapshotRequest made; Corrupt if it is
// something else.
func ParseSnapshotRequest(b []byte) (SnapshotRequest, error) {
	r := wire.NewReader(b)
	id := r.Uint()
	if id > 1<<32-1 {
		r.Fail("group")
	}
	req := SnapshotRequest{Group: covey.ShardID(id), ID: r.Uint64(), Chunk: r.Uint()}
	if err := r.End(); err != nil {
		return SnapshotRequest{}, fmt.Errorf("snapshot request: %w", err)
	}
	return req, nil
}

func cutText(s string) string { return s[:min(len(s), maxAnswerText)] }

// ParseMessages decodes what AppendMessages made; Corrupt if it is something
// else. The length of b bounds what it takes in memory: an entry has at least two
// octets. The messages share nothing with b but the data of proposals.
func ParseMessages(b []byte) ([]Message, error) {
	r := wire.NewReader(b)
	if v := r.Byte(); v != messagesVersion {
		return nil, covey.Errorf(covey.Corrupt, "messages of version %d, this program reads version %d", v, messagesVersion)
	}
	var messages []Message
	for r.Len() > 0 && r.Err() == nil {
		m, err := parseMessage(r)
		if err != nil {
			return nil, err
		}
		messages = append(messages, m)
	}
	if r.Err() != nil {
		return nil, fmt.Errorf("messages: %w", r.Err())
	}
	return messages, nil
}

func parseMessage(r *wire.Reader) (Message, error) {
	kind, id := r.Byte(), r.Uint()
	if id > 1<<32-1 {
		r.Fail("group")
	}
	m := Message{Group: covey.ShardID(id)}
	switch kind {
	case kindRaft:
		m.Since = r.Uint()
		p := r.Bytes()
		if r.Err() != nil {
			break
		}
		m.Message = &raftpb.Message{}
		if err := proto.Unmarshal(p, m.Message); err != nil {
			return Message{}, covey.Errorf(covey.Corrupt, "message: %w", err)
		}
	case kindProposal:
		m.Proposal = &Proposal{Term: r.Uint(), Data: r.Bytes()}
	case kindAnswer:
		m.Answer = &Answer{Term: r.Uint(), Nonce: r.Uint64(), Index: r.Uint(), Kind: covey.Kind(r.Byte()), Text: cutText(r.String())}
	default:
		r.Fail("kind of message")
	}
	return m, r.Err()
}
