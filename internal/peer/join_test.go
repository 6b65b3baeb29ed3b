package peer

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-mail/covey"
)

const joinMethod Method = 1

// A node without a cluster is believed what it says of itself, and no more; once
// it is a member, it has links.
func TestJoin(t *testing.T) {
	r := newRoster()
	b := start(t, 2, r)
	b.Handle(echoMethod, echo)
	var seen Remote
	b.HandleJoin(joinMethod, func(_ context.Context, from Remote, req []byte) ([]byte, error) {
		seen = from
		r.set(from.Node, from.Key, string(req))
		return testCluster[:], nil
	})
	rn := newRoster()
	n := outsider(t, rn, func(c *Config) { c.Node, c.Key, c.Cluster = 7, testKey(7), covey.ClusterID{} })

	reply, from, err := n.CallAddr(t.Context(), b.addr, joinMethod, []byte("127.0.0.1:7"))
	if err != nil {
		t.Fatal(err)
	}
	if from.Node != 2 || from.Cluster != testCluster || !from.Key.Equal(testPub(2)) || from.Addr != b.addr {
		t.Errorf("answered by %+v", from)
	}
	if seen.Node != 7 || seen.Cluster != (covey.ClusterID{}) || !seen.Key.Equal(testPub(7)) || seen.Addr == "" {
		t.Errorf("the handler saw %+v", seen)
	}
	rn.set(2, from.Key, b.addr)
	_, err = n.Call(t.Context(), 2, echoMethod)
	wantKind(t, err, covey.Unavailable) // no cluster yet
	if err := n.SetCluster(covey.ClusterID(reply)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a link", func() bool {
		_, err := n.Call(t.Context(), 2, echoMethod)
		return err == nil
	})
	if err := n.SetCluster(testCluster); err != nil {
		t.Errorf("said again: %v", err)
	}
	wantKind(t, n.SetCluster(covey.ClusterID{9}), covey.Conflict)
	// A retry, after a lost answer.
	if _, _, err := n.CallAddr(t.Context(), b.addr, joinMethod, []byte("x")); err != nil {
		t.Errorf("a member that asks to join: %v", err)
	}
}

// Two nodes without a cluster may ask each other whether they have one.
func TestJoinCallBetweenNodesWithoutCluster(t *testing.T) {
	none := func(c *Config) { c.Cluster = covey.ClusterID{} }
	b := start(t, 2, newRoster(), none)
	b.HandleJoin(joinMethod, func(context.Context, Remote, []byte) ([]byte, error) {
		return nil, covey.Errorf(covey.NotFound, "I have none")
	})
	n := outsider(t, newRoster(), none)
	_, from, err := n.CallAddr(t.Context(), b.addr, joinMethod, nil)
	if covey.KindOf(errOr(err)) != covey.NotFound || err.Error() != "I have none" || from.Node != 2 {
		t.Errorf("got %v from %+v", err, from)
	}
}

func TestJoinRefused(t *testing.T) {
	r := newRoster()
	b := start(t, 2, r)
	called := make(chan struct{}, 10)
	b.HandleJoin(joinMethod, func(context.Context, Remote, []byte) ([]byte, error) {
		called <- struct{}{}
		return nil, nil
	})
	r.set(5, testPub(5), "")
	tests := []struct {
		name   string
		change func(*Config)
		from   covey.NodeID
	}{
		{"other secret", func(c *Config) { c.Secrets = []Secret{testSecret(3)} }, 0},
		{"other cluster (C-05)", func(c *Config) { c.Cluster = covey.ClusterID{8} }, 2},
		{"id of a member with another key (C-04)", func(c *Config) { c.Node = 5; c.Key = testKey(6) }, 2},
		{"ourselves", func(c *Config) { c.Node = 2; c.Key = testKey(2) }, 2},
	}
	for _, test := range tests {
		n := outsider(t, newRoster(), test.change)
		_, from, err := n.CallAddr(t.Context(), b.addr, joinMethod, nil)
		if covey.KindOf(errOr(err)) != covey.Unavailable || from.Node != test.from {
			t.Errorf("%s: got %v from %v", test.name, err, from.Node)
		}
	}
	if len(called) > 0 {
		t.Error("a handler was called")
	}
	n := outsider(t, newRoster(), func(*Config) {})
	_, _, err := n.CallAddr(t.Context(), b.addr, 9, nil)
	wantKind(t, err, covey.Unavailable)
	_, _, err = n.CallAddr(t.Context(), b.addr, joinMethod, make([]byte, maxJoin+1))
	wantKind(t, err, covey.TooBig)
	_, _, err = n.CallAddr(t.Context(), "127.0.0.1:1", joinMethod, nil)
	wantKind(t, err, covey.Unavailable)
	if len(called) > 0 {
		t.Error("a handler was called")
	}
}

func TestJoinOutcomeUnknown(t *testing.T) {
	b := start(t, 2, newRoster())
	p := newProxy(t, b.addr)
	arrived := make(chan struct{}, 10)
	b.HandleJoin(joinMethod, func(ctx context.Context, _ Remote, _ []byte) ([]byte, error) {
		arrived <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	})
	b.HandleJoin(joinMethod+1, func(context.Context, Remote, []byte) ([]byte, error) { panic("at the door") })
	n := outsider(t, newRoster(), func(*Config) {})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _, err := n.CallAddr(t.Context(), p.l.Addr().String(), joinMethod, nil)
		if covey.KindOf(errOr(err)) != covey.Unknown {
			t.Errorf("cut: got %v", err)
		}
	})
	<-arrived
	p.cut()
	wg.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	wg.Go(func() {
		_, _, err := n.CallAddr(ctx, b.addr, joinMethod, nil)
		if covey.KindOf(errOr(err)) != covey.Unknown || !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: got %v", err)
		}
	})
	<-arrived
	cancel()
	wg.Wait()
	_, _, err := n.CallAddr(t.Context(), b.addr, joinMethod+1, nil)
	wantKind(t, err, covey.Unknown)
	b.Close() // ends the handlers
}

// Who says nothing after the handshake, or does not end it, is shown out.
func TestStrangerHasFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoster()
		pn := newPipeNet()
		b, _ := startPiped(t, 2, r, pn)
		r.set(1, testPub(1), "1")
		dial := func() net.Conn {
			c, err := pn.dial(t.Context(), b.addr)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		wait := func(c net.Conn) {
			t.Helper()
			d := took(func() {
				if _, err := c.Read(make([]byte, 1)); err == nil {
					t.Error("it spoke")
				}
			})
			if d != welcomeTime {
				t.Errorf("shown out after %v, want %v", d, welcomeTime)
			}
			c.Close()
		}
		wait(dial()) // no handshake

		n := outsider(t, r, func(c *Config) { c.Dial = pn.dial })
		c, err := n.dial(t.Context(), &dialling{addr: b.addr, hello: hello{class: join}})
		if err != nil {
			t.Fatal(err)
		}
		wait(c) // no call
		n.release(c)
	})
}

func TestJoinsAreBounded(t *testing.T) {
	b := start(t, 2, newRoster())
	arrived, gate := make(chan struct{}), make(chan struct{})
	b.HandleJoin(joinMethod, func(context.Context, Remote, []byte) ([]byte, error) {
		arrived <- struct{}{}
		<-gate
		return nil, nil
	})
	n := outsider(t, newRoster(), func(*Config) {})
	var wg sync.WaitGroup
	for range maxJoins {
		wg.Go(func() {
			if _, _, err := n.CallAddr(t.Context(), b.addr, joinMethod, nil); err != nil {
				t.Error(err)
			}
		})
		<-arrived
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, _, err := n.CallAddr(ctx, b.addr, joinMethod, nil)
	wantKind(t, err, covey.Unavailable)
	close(gate)
	wg.Wait()
}
