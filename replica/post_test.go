package replica

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/covey-mail/covey"
)

func TestJoin(t *testing.T) {
	from := func(index, commit uint64, entries ...*raftpb.Entry) *raftpb.Message {
		return message(raftpb.MsgApp, func(m *raftpb.Message) {
			m.Index, m.LogTerm, m.Commit, m.Entries = new(index), new(uint64(4)), new(commit), entries
		})
	}
	ack := func(index uint64, reject bool) *raftpb.Message {
		return message(raftpb.MsgAppResp, func(m *raftpb.Message) { m.Index, m.Reject = new(index), new(reject) })
	}
	later := message(raftpb.MsgAppResp, func(m *raftpb.Message) { m.Term, m.Index = new(uint64(6)), new(uint64(9)) })
	long := entry(5, 4)
	long.Data = make([]byte, maxMessageBytes)
	for _, test := range []struct {
		name       string
		a, b, want *raftpb.Message
	}{
		{"news of commits", from(4, 2), from(4, 3), from(4, 3)},
		{"news and entries", from(4, 3), from(4, 3, entry(5, 4), entry(6, 4)), from(4, 3, entry(5, 4), entry(6, 4))},
		{"entries and entries", from(4, 3, entry(5, 4)), from(5, 2, entry(6, 5)), from(4, 3, entry(5, 4), entry(6, 5))},
		{"entries that do not follow", from(4, 3, entry(5, 4)), from(6, 3, entry(7, 4)), nil},
		{"the same entries again", from(4, 3, entry(5, 4)), from(4, 3, entry(5, 4)), nil},
		{"too long", from(4, 3, long), from(5, 3, entry(6, 4)), nil},
		{"acknowledgements", ack(4, false), ack(7, false), ack(7, false)},
		{"an older one", ack(7, false), ack(4, false), nil},
		{"of another term", ack(7, false), later, nil},
		{"rejection", ack(4, false), ack(7, true), nil},
		{"after a rejection", ack(4, true), ack(7, false), nil},
		{"of other types", from(4, 3), ack(7, false), nil},
		{"heartbeats", message(raftpb.MsgHeartbeat, nil), message(raftpb.MsgHeartbeat, nil), nil},
	} {
		if diff := cmp.Diff(test.want, join(test.a, test.b), protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got)\n%s", test.name, diff)
		}
	}
}

// A message is joined to the last one of its group and life, not to others.
func TestPut(t *testing.T) {
	ack := func(group uint32, index, since uint64) Message {
		return Message{Group: covey.ShardID(group), Since: since, Message: message(raftpb.MsgAppResp, func(m *raftpb.Message) { m.Index = new(index) })}
	}
	beat := Message{Group: 2, Message: message(raftpb.MsgHeartbeatResp, nil)}
	var list []Message
	for _, m := range []Message{ack(1, 5, 0), ack(2, 5, 0), ack(1, 6, 0), {Group: 3, Answer: &Answer{Term: 1}}, ack(3, 1, 0), ack(2, 7, 9), ack(2, 8, 9), beat, ack(2, 9, 9)} {
		list = put(list, m)
	}
	var got []string
	for _, m := range list {
		got = append(got, fmt.Sprint(m.Group, " ", m.Message.GetIndex(), " ", m.Since))
	}
	want := []string{"1 6 0", "2 5 0", "3 0 0", "3 1 0", "2 8 9", "2 0 0", "2 9 9"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// Many commands at a time cost few messages, and few fsyncs.
func TestCommandsShareMessages(t *testing.T) {
	inCluster(t, 3, 3, func(c *cluster) {
		leader := c.leader(0, c.all()...)
		leader.mustPropose(0, "first")
		advance(c.t, time.Second)
		for _, p := range c.nodes {
			p.gate.slow = 10 * time.Millisecond
		}
		sent, began := c.net.Counts().Delivered, time.Now()
		const callers, each = 32, 20
		var all sync.WaitGroup
		for n := range callers {
			all.Go(func() {
				for i := range each {
					if err := leader.propose(0, 10*time.Second, fmt.Sprint(n, "-", i)); err != nil {
						c.t.Error(err)
					}
					pause(c.t.Context(), time.Duration(n%7)*time.Millisecond)
				}
			})
		}
		all.Wait()
		frames, took := c.net.Counts().Delivered-sent, time.Since(began)
		t.Logf("%d commands: %d frames, %v", callers*each, frames, took)
		if frames > callers*each {
			c.t.Errorf("%d frames for %d commands", frames, callers*each)
		}
		c.agree(0)
	})
}
