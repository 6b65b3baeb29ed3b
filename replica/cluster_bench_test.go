package replica

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/covey-mail/covey"
	link "github.com/covey-mail/covey/internal/peer"
	"github.com/covey-mail/covey/storage/seglog"
)

// wires carries messages over a node's links as the node does.
type wires struct {
	net              *link.Net
	host             *Host
	messages, frames atomic.Int64
}

func (w *wires) Send(to covey.NodeID, messages []Message) {
	w.messages.Add(int64(len(messages)))
	for len(messages) > 0 {
		var parts [][]byte
		if parts, messages, _ = EncodeMessages(messages); len(parts) > 0 {
			w.net.Post(to, 1, parts...)
			w.frames.Add(1)
		}
	}
}

func (w *wires) Fetch(context.Context, covey.NodeID, SnapshotRequest) ([]byte, error) {
	return nil, covey.Errorf(covey.Unavailable, "%w", errNoFetch)
}

func (w *wires) receive(from covey.NodeID, frame []byte) {
	if messages, err := ParseMessages(frame); err == nil {
		w.host.Step(from, messages)
	}
}

// BenchmarkThreeNodes has 64 callers at a time propose 8 KiB to groups of three
// voters, which lead a third of them each, over TLS on loopback, each with a log of
// its own on the same disk. All of it shares the processors: cpu-µs/op is what a
// command costs in all three.
func BenchmarkThreeNodes(b *testing.B) {
	for _, groups := range []int{1, 16} {
		b.Run(fmt.Sprintf("groups=%d", groups), func(b *testing.B) { benchmarkNodes(b, 3, groups) })
	}
}

// BenchmarkOneNode is the same with one.
func BenchmarkOneNode(b *testing.B) {
	for _, groups := range []int{1, 16} {
		b.Run(fmt.Sprintf("groups=%d", groups), func(b *testing.B) { benchmarkNodes(b, 1, groups) })
	}
}

func benchmarkNodes(b *testing.B, nodes, groups int) {
	hosts := startHosts(b, nodes, groups)
	leaders := make([]*Host, groups)
	for id := range covey.ShardID(groups) {
		leaders[id] = leads(b, hosts, id, int(id)%nodes)
	}
	command := make([]byte, 8<<10)
	b.SetBytes(int64(len(command)))
	var next atomic.Int64
	var callers sync.WaitGroup
	b.ResetTimer()
	began, before := processorTime(b), workOf(hosts)
	for range 64 {
		callers.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				id := covey.ShardID(i % int64(groups))
				if _, err := leaders[id].Propose(b.Context(), id, command); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	callers.Wait()
	b.StopTimer()
	used := workOf(hosts).minus(before)
	b.ReportMetric(float64(used.messages)/float64(b.N), "messages/op")
	b.ReportMetric(float64(used.frames)/float64(b.N), "frames/op")
	b.ReportMetric(float64(used.syncs)/float64(b.N), "syncs/op")
	b.ReportMetric(float64((processorTime(b)-began).Microseconds())/float64(b.N), "cpu-µs/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
}

// traffic is what hosts did, over all.
type traffic struct{ messages, frames, syncs int64 }

func (w traffic) minus(v traffic) traffic {
	return traffic{w.messages - v.messages, w.frames - v.frames, w.syncs - v.syncs}
}

func workOf(hosts []*Host) (w traffic) {
	for _, h := range hosts {
		wires := h.cfg.Transport.(*wires)
		w.messages += wires.messages.Load()
		w.frames += wires.frames.Load()
		w.syncs += int64(count(h.metrics.syncSeconds))
	}
	return w
}

// leads makes a node lead a group.
func leads(b *testing.B, hosts []*Host, id covey.ShardID, node int) *Host {
	want := hosts[node]
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if status(want, id).Leader == want.cfg.Node && want.ReadIndex(b.Context(), id) == nil {
			return want
		}
		for _, h := range hosts {
			if h != want && status(h, id).Leader == h.cfg.Node {
				_ = h.TransferLeader(b.Context(), id, want.cfg.Node) // it may lead no more
			}
		}
		<-time.After(50 * time.Millisecond)
	}
	b.Fatalf("group %d: no leader", id)
	return nil
}

// startHosts starts nodes with groups that all vote in.
func startHosts(b *testing.B, nodes, groups int) []*Host {
	listeners, voters := make([]net.Listener, nodes), make([]covey.NodeID, nodes)
	for i := range nodes {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		listeners[i], voters[i] = l, covey.NodeID(i+1)
	}
	secret := link.Secret{1}
	key := func(id covey.NodeID) ed25519.PrivateKey {
		seed := make([]byte, ed25519.SeedSize)
		binary.LittleEndian.PutUint64(seed, uint64(id))
		return ed25519.NewKeyFromSeed(seed)
	}
	hosts := make([]*Host, nodes)
	for i, id := range voters {
		links, err := link.New(link.Config{
			Node: id, Cluster: covey.ClusterID{1}, Key: key(id), Secrets: []link.Secret{secret},
			Pin:  func(id covey.NodeID) (ed25519.PublicKey, bool) { return key(id).Public().(ed25519.PublicKey), true },
			Addr: func(id covey.NodeID) (string, bool) { return listeners[id-1].Addr().String(), true },
		})
		if err != nil {
			b.Fatal(err)
		}
		log, err := seglog.Open(seglog.Config{Dir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		w := &wires{net: links}
		h, err := New(Config{Node: id, Log: log, Transport: w})
		if err != nil {
			b.Fatal(err)
		}
		w.host, hosts[i] = h, h
		for id := range covey.ShardID(groups) {
			if err := h.Add(id, &sink{}, voters); err != nil {
				b.Fatal(err)
			}
		}
		links.HandlePost(1, w.receive)
		runHost(b, h, links, listeners[i])
	}
	return hosts
}

// runHost runs a host and its links until the benchmark ends.
func runHost(b *testing.B, h *Host, links *link.Net, l net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := h.Run(ctx); err != nil {
			b.Error(err)
		}
	})
	running.Go(func() { _ = links.Serve(l) }) // ends with Close
	b.Cleanup(func() {
		cancel()
		links.Close()
		l.Close()
		running.Wait()
		h.cfg.Log.Close()
	})
}

// count returns how many observations a histogram has.
func count(h prometheus.Histogram) uint64 {
	var m dto.Metric
	if err := h.Write(&m); err != nil {
		panic(err)
	}
	return m.GetHistogram().GetSampleCount()
}

// processorTime returns what this process has used so far.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
