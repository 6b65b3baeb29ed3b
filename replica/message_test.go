package replica

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/covey-mail/covey"
)

func sampleMessages() []Message {
	long := entry(4, 4)
	long.Data = bytes.Repeat([]byte{7}, copyBelow)
	return []Message{
		{Group: 3, Since: 300, Message: appending(entry(4, 4), entry(5, 5))},
		{Message: message(raftpb.MsgHeartbeat, nil)},
		{Group: 5, Message: appending(long, entry(5, 5))},
		{Group: 1<<32 - 1, Proposal: &Proposal{Term: 9, Data: appendFrame(nil, 2, 77, []byte("command"))}},
		{Answer: &Answer{Term: 9, Nonce: 1<<64 - 1, Index: 1 << 40}},
		{Answer: &Answer{Term: 9, Nonce: 5, Kind: covey.DiskFull, Text: "no room"}},
	}
}

// mustFrame encodes messages that make one frame.
func mustFrame(t testing.TB, messages []Message) []byte {
	t.Helper()
	parts, rest, err := EncodeMessages(messages)
	if err != nil || len(rest) > 0 {
		t.Fatalf("%d messages are left over, %v", len(rest), err)
	}
	return bytes.Join(parts, nil)
}

// However many messages there are, a frame is not much longer than it should be,
// and all get there.
func TestMessagesInFrames(t *testing.T) {
	var all []Message
	for i := range 1000 {
		e := entry(4, 4)
		e.Data = make([]byte, i*10)
		all = append(all, Message{Group: covey.ShardID(i), Message: appending(e)})
	}
	next, frames := 0, 0
	for rest := all; len(rest) > 0; frames++ {
		parts, left, err := EncodeMessages(rest)
		if err != nil {
			t.Fatal(err)
		}
		b := bytes.Join(parts, nil)
		if len(b) > frameBytes+20_000 {
			t.Errorf("a frame of %d octets", len(b))
		}
		messages, err := ParseMessages(b)
		if err != nil || len(messages) != len(rest)-len(left) {
			t.Fatalf("%d messages of %d: %v", len(messages), len(rest)-len(left), err)
		}
		for _, m := range messages {
			if n := len(m.Message.GetEntries()[0].GetData()); m.Group != covey.ShardID(next) || n != next*10 {
				t.Fatalf("message %d is of group %d, with %d octets", next, m.Group, n)
			}
			next++
		}
		rest = left
	}
	if next != len(all) || frames != 5 {
		t.Errorf("%d messages in %d frames", next, frames)
	}
}

func TestMessages(t *testing.T) {
	for _, want := range [][]Message{nil, sampleMessages()} {
		b := mustFrame(t, want)
		got, err := ParseMessages(b)
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" || err != nil {
			t.Errorf("%v (-want +got)\n%s", err, diff)
		}
		for n := range b {
			// Whole messages may be cut off, not parts of one.
			if got, err := ParseMessages(b[:n]); err == nil && (n == 0 || len(got) >= len(want)) {
				t.Errorf("%d of %d octets give %d messages", n, len(b), len(got))
			}
		}
	}
}

func TestAnswersTextIsCut(t *testing.T) {
	b := mustFrame(t, []Message{{Answer: &Answer{Term: 1, Text: strings.Repeat("x", 1<<20)}}})
	if len(b) > 1000 {
		t.Errorf("%d octets", len(b))
	}
}

func TestMessagesRefused(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing":        {},
		"other version":  {2},
		"unknown kind":   {1, 9, 0},
		"large group":    {1, kindProposal, 0xff, 0xff, 0xff, 0xff, 0x7f, 1, 0},
		"long data":      {1, kindProposal, 0, 1, 0xff, 0xff, 0xff, 0xff, 0x0f},
		"no raftpb":      {1, kindRaft, 0, 0, 2, 0xff, 0xff},
		"entries twice":  {1, kindRaft, 0, 0, 2, 0x3a, 0, 0},
		"many entries":   {1, kindRaft, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f},
		"type of entry":  {1, kindRaft, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0x0f, 1, 1, 0},
		"answer cut off": {1, kindAnswer, 0, 1, 1, 2, 3},
	} {
		_, err := ParseMessages(b)
		wantKind(t, name, err, covey.Corrupt)
	}
}

// FuzzMessages shows the decoder bytes of a peer. What it takes is encoded and
// decoded to the same.
func FuzzMessages(f *testing.F) {
	f.Add(mustFrame(f, sampleMessages()))
	f.Fuzz(func(t *testing.T, b []byte) {
		messages, err := ParseMessages(b)
		if err != nil {
			return
		}
		frame := mustFrame(t, messages)
		again, err := ParseMessages(frame)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(mustFrame(t, again), frame) {
			t.Errorf("%x is encoded as %x, and that otherwise", b, frame)
		}
	})
}
