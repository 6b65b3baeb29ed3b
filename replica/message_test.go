package replica

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/covey-mail/covey"
)

func sampleMessages() []Message {
	return []Message{
		{Group: 3, Since: 300, Message: appending(entry(4, 4), entry(5, 5))},
		{Message: message(raftpb.MsgHeartbeat, nil)},
		{Group: 1<<32 - 1, Proposal: &Proposal{Term: 9, Data: appendFrame(nil, 2, 77, []byte("command"))}},
		{Answer: &Answer{Term: 9, Nonce: 1<<64 - 1, Index: 1 << 40}},
		{Answer: &Answer{Term: 9, Nonce: 5, Kind: covey.DiskFull, Text: "no room"}},
	}
}

func TestMessages(t *testing.T) {
	for _, want := range [][]Message{nil, sampleMessages()} {
		b, err := AppendMessages(nil, want)
		if err != nil {
			t.Fatal(err)
		}
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
	b, err := AppendMessages(nil, []Message{{Answer: &Answer{Term: 1, Text: strings.Repeat("x", 1<<20)}}})
	if err != nil || len(b) > 1000 {
		t.Errorf("%d octets, %v", len(b), err)
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
		"answer cut off": {1, kindAnswer, 0, 1, 1, 2, 3},
	} {
		_, err := ParseMessages(b)
		wantKind(t, name, err, covey.Corrupt)
	}
}

// FuzzMessages shows the decoder bytes of a peer. What it takes is encoded and
// decoded to the same.
func FuzzMessages(f *testing.F) {
	b, err := AppendMessages(nil, sampleMessages())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		messages, err := ParseMessages(b)
		if err != nil {
			return
		}
		again, err := AppendMessages(nil, messages)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseMessages(again)
		if diff := cmp.Diff(messages, got, protocmp.Transform()); diff != "" || err != nil {
			t.Errorf("%v (-first +second)\n%s", err, diff)
		}
	})
}
