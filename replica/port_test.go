package replica

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/simnet"
)

// A packet is what nodes send each other: messages, or a call of ServeSnapshot, or
// its answer.
type packet struct {
	messages []Message
	call     uint64 // of the caller
	request  *SnapshotRequest
	chunk    []byte
	err      error
}

// A port is a node's end of the network. A node whose power is cut sends nothing.
type port struct {
	net   *simnet.Net[packet]
	from  covey.NodeID
	host  *Host
	dead  atomic.Bool
	serve sync.WaitGroup

	mu      sync.Mutex // guards the following
	calls   uint64
	open    map[uint64]chan packet
	ended   bool
	asked   []SnapshotRequest   // by this node
	corrupt func([]byte) []byte // not nil: what comes instead of a chunk
}

func newPort(net *simnet.Net[packet], from covey.NodeID) *port {
	return &port{net: net, from: from, open: map[uint64]chan packet{}}
}

func (p *port) Send(to covey.NodeID, messages []Message) { p.send(to, packet{messages: messages}) }

func (p *port) send(to covey.NodeID, k packet) {
	if !p.dead.Load() {
		p.net.Send(p.from, to, k)
	}
}

// Fetch calls another node and waits for its answer for a second.
func (p *port) Fetch(ctx context.Context, from covey.NodeID, req SnapshotRequest) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	answer := make(chan packet, 1)
	p.mu.Lock()
	p.calls++
	call := p.calls
	p.open[call] = answer
	p.asked = append(p.asked, req)
	corrupt := p.corrupt
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.open, call)
	}()
	p.send(from, packet{call: call, request: &req})
	select {
	case k := <-answer:
		if corrupt != nil {
			return corrupt(k.chunk), k.err
		}
		return k.chunk, k.err
	case <-ctx.Done():
		return nil, covey.Errorf(covey.Unavailable, "no answer: %w", ctx.Err())
	}
}

func (p *port) receive(from covey.NodeID, k packet) {
	switch {
	case k.request != nil:
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.ended {
			p.serve.Go(func() { p.answer(from, k) })
		}
	case k.call != 0:
		p.mu.Lock()
		defer p.mu.Unlock()
		if answer := p.open[k.call]; answer != nil {
			select {
			case answer <- k:
			default: // it came twice
			}
		}
	default:
		p.host.Step(from, k.messages)
	}
}

func (p *port) answer(from covey.NodeID, k packet) {
	b, err := p.host.ServeSnapshot(from, *k.request)
	if err != nil {
		err = covey.Errorf(covey.KindOf(err), "%v", err)
	}
	p.send(from, packet{call: k.call, chunk: bytes.Clone(b), err: err})
}

// end waits for the calls that are being answered.
func (p *port) end() {
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	p.serve.Wait()
}

// corruptBy sets what comes instead of a chunk.
func (p *port) corruptBy(corrupt func([]byte) []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.corrupt = corrupt
}

// requests returns what this node asked for so far.
func (p *port) requests() []SnapshotRequest {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]SnapshotRequest(nil), p.asked...)
}

var errNoFetch = errors.New("nobody is there to ask")

// Fetch makes a player a Transport: the nodes it plays have no copies.
func (p *player) Fetch(context.Context, covey.NodeID, SnapshotRequest) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fetched++
	return nil, covey.Errorf(covey.Unavailable, "%w", errNoFetch)
}

func (a *asker) Fetch(context.Context, covey.NodeID, SnapshotRequest) ([]byte, error) {
	return nil, covey.Errorf(covey.Unavailable, "%w", errNoFetch)
}
