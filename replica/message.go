package replica

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"

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
//	1  since; length and octets of the protocol buffer raftpb.Message, without
//	   its entries; how many those are; and for each its type, term, index, and
//	   length and octets of its data
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

	// frameBytes is about how much goes into one frame. A frame may be longer by
	// one message, of up to MaxCommand.
	frameBytes = 1 << 20

	// copyBelow is the length below which data is copied rather than referred to.
	copyBelow = 1 << 10
)

// An encoder puts parts together. What is long is not copied.
type encoder struct {
	parts [][]byte
	from  int    // of the next part in small
	small []byte // what is not long
	long  int    // octets of what is
}

func (e *encoder) data(p []byte) {
	e.small = wire.AppendUint(e.small, uint64(len(p)))
	if len(p) < copyBelow {
		e.small = append(e.small, p...)
		return
	}
	e.cut()
	e.parts = append(e.parts, p)
	e.long += len(p)
}

// cut ends a part.
func (e *encoder) cut() {
	if n := len(e.small); n > e.from {
		e.parts = append(e.parts, e.small[e.from:n:n])
		e.from = n
	}
}

// EncodeMessages encodes messages, at least one and as many as make a frame of
// sensible length, and returns the others. The parts of the frame are to be joined,
// for ParseMessages. They refer to data of the messages, which must not be changed
// any more.
func EncodeMessages(messages []Message) (parts [][]byte, rest []Message, err error) {
	e := encoder{small: append(make([]byte, 0, 512), messagesVersion)}
	for i, m := range messages {
		if i > 0 && e.long+len(e.small) >= frameBytes {
			rest = messages[i:]
			break
		}
		if err := e.message(m); err != nil {
			return nil, nil, fmt.Errorf("encode message: %w", err)
		}
	}
	e.cut()
	return e.parts, rest, nil
}

func (e *encoder) message(m Message) error {
	switch {
	case m.Message != nil:
		e.small = wire.AppendUint(append(e.small, kindRaft), uint64(m.Group))
		e.small = wire.AppendUint(e.small, m.Since)
		return e.raft(m.Message)
	case m.Proposal != nil:
		e.small = wire.AppendUint(append(e.small, kindProposal), uint64(m.Group))
		e.small = wire.AppendUint(e.small, m.Proposal.Term)
		e.data(m.Proposal.Data)
	case m.Answer != nil:
		a := m.Answer
		b := wire.AppendUint(append(e.small, kindAnswer), uint64(m.Group))
		b = wire.AppendUint(b, a.Term)
		b = binary.LittleEndian.AppendUint64(b, a.Nonce)
		b = wire.AppendUint(b, a.Index)
		b = append(b, byte(a.Kind))
		e.small = wire.AppendBytes(b, cutText(a.Text))
	}
	return nil
}

func (e *encoder) raft(m *raftpb.Message) error {
	head := m
	if len(m.GetEntries()) > 0 {
		head = &raftpb.Message{
			Type: m.Type, To: m.To, From: m.From, Term: m.Term, LogTerm: m.LogTerm, Index: m.Index, Commit: m.Commit,
			Vote: m.Vote, Snapshot: m.Snapshot, Reject: m.Reject, RejectHint: m.RejectHint, Context: m.Context,
		}
	}
	e.small = wire.AppendUint(e.small, uint64(proto.Size(head)))
	b, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(e.small, head)
	if err != nil {
		return err
	}
	e.small = wire.AppendUint(b, uint64(len(m.GetEntries())))
	for _, entry := range m.GetEntries() {
		e.small = wire.AppendUint(e.small, uint64(entry.GetType()))
		e.small = wire.AppendUint(e.small, entry.GetTerm())
		e.small = wire.AppendUint(e.small, entry.GetIndex())
		e.data(entry.GetData())
	}
	return nil
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

// ParseMessages decodes what EncodeMessages made; Corrupt if it is something else.
// The length of b bounds what it takes in memory: an entry has at least four
// octets. The messages refer to b, which must not be changed any more.
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
		if err := parseRaft(r, &m); err != nil {
			return Message{}, err
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

func parseRaft(r *wire.Reader, m *Message) error {
	head := r.Bytes()
	if r.Err() != nil {
		return nil // its caller sees it
	}
	m.Message = &raftpb.Message{}
	if err := proto.Unmarshal(head, m.Message); err != nil {
		return covey.Errorf(covey.Corrupt, "message: %w", err)
	}
	n := r.Count(4)
	if len(m.Message.GetEntries()) > 0 {
		r.Fail("entries in the head of a message")
	}
	if n == 0 || r.Err() != nil {
		return nil
	}
	m.Message.Entries = make([]*raftpb.Entry, 0, n)
	for range n {
		m.Message.Entries = append(m.Message.Entries, parseEntry(r))
	}
	return nil
}

// A wholeEntry is an entry in one piece of memory.
type wholeEntry struct {
	entry       raftpb.Entry
	typ         raftpb.EntryType
	term, index uint64
}

// parseEntry decodes an entry. Short data is copied: the log keeps entries for a
// while, and would keep all of the frame with each.
func parseEntry(r *wire.Reader) *raftpb.Entry {
	typ := r.Uint()
	if typ > math.MaxInt32 {
		r.Fail("type of entry")
	}
	e := &wholeEntry{typ: raftpb.EntryType(typ), term: r.Uint(), index: r.Uint()}
	e.entry.Term, e.entry.Index = &e.term, &e.index
	if typ != 0 { // else it is a normal one, which need not be said
		e.entry.Type = &e.typ
	}
	if data := r.Bytes(); len(data) < copyBelow {
		e.entry.Data = bytes.Clone(data)
	} else {
		e.entry.Data = data
	}
	return &e.entry
}
