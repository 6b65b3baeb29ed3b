package pop3d

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/handoff"
)

// homes sends every session to another server over a connection, as a link
// between nodes would.
type homes struct {
	t    testing.TB
	home *Server
	err  error

	mu   sync.Mutex // guards what follows
	got  handoff.Login
	conn net.Conn // the home's end
}

func (h *homes) Home(ctx context.Context, service string, l handoff.Login) (net.Conn, error) {
	if h.err != nil {
		return nil, h.err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	near, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		return nil, err
	}
	far, err := listener.Accept()
	if err != nil {
		return nil, err
	}
	got, err := handoff.Decode(l.Encode())
	if err != nil || service != Service {
		h.t.Errorf("service %q, login %+v: %v", service, l, err)
	}
	h.mu.Lock()
	h.conn, h.got = far, got
	h.mu.Unlock()
	h.home.Resume(far, got)
	return near, handoff.Await(ctx, near)
}

// twoNodes is a front whose sessions run on another server.
func twoNodes(t *testing.T) (front, home *stand, h *homes) {
	home = newStand(t, nil)
	h = &homes{t: t, home: home.Server}
	front = newStand(t, func(cfg *Config) { cfg.Homes = h })
	return front, home, h
}

// A session that runs on another node is like any other: what was sent ahead is
// not lost, and its lock is held at home.
func TestSessionRunsAtHome(t *testing.T) {
	front, home, h := twoNodes(t)
	home.deliver(t, "one\r\n", "two\r\n")
	c := front.dial(t)
	c.send(t, "USER alice\r\nPASS "+secret+"\r\nSTAT\r\nDELE 1\r\n")
	c.talk(t, `
		< +OK mail.example.org POP3 ready
		< +OK send PASS
		< +OK 2 messages (10 octets)
		< +OK 2 10
		< +OK …`)
	d := home.dial(t)
	d.talk(t, `
		< +OK …
		> USER alice
		< +OK …
		> PASS `+secret+`
		< -ERR [IN-USE] …`)
	c.talk(t, `
		> QUIT
		< +OK …
		< EOF`)
	if n := home.count(t); n != 1 {
		t.Errorf("%d messages at home, want 1", n)
	}
	want := handoff.Login{Account: alice.ID, Shard: alice.Shard, Address: alice.Address, Remote: "127.0.0.1"}
	h.got.Leftover, h.got.Session = nil, ""
	if d := cmp.Diff(want, h.got); d != "" {
		t.Errorf("login at home (-want +got):\n%s", d)
	}
}

// What the home node says of a log-in is what the client hears, who may then try
// again.
func TestHomeRefuses(t *testing.T) {
	front, home, h := twoNodes(t)
	lock := home.login(t)
	c := front.dial(t)
	c.talk(t, `
		< +OK …
		> USER alice
		< +OK …
		> PASS `+secret+`
		< -ERR [IN-USE] …`)
	lock.talk(t, `
		> QUIT
		< +OK …`)
	h.err = covey.Errorf(covey.Unavailable, "no leader")
	c.talk(t, `
		> USER alice
		< +OK …
		> PASS `+secret+`
		< -ERR [SYS/TEMP] …`)
	h.err = nil
	c.talk(t, `
		> USER alice
		< +OK …
		> PASS `+secret+`
		< +OK …`)
}

// Design section 4: when the shard's leader moves, the session ends with the right
// word, and removes nothing.
func TestEndOfAShard(t *testing.T) {
	front, home, _ := twoNodes(t)
	home.deliver(t, "one\r\n")
	c := front.login(t)
	c.talk(t, `
		> DELE 1
		< +OK …`)
	home.End(2)
	c.talk(t, `
		> NOOP
		< +OK…`)
	home.End(alice.Shard)
	c.talk(t, `
		< -ERR [SYS/TEMP] …
		< EOF`)
	if n := home.count(t); n != 1 {
		t.Errorf("%d messages at home, want 1", n)
	}
}

func TestDeadHomeEndsTheSession(t *testing.T) {
	front, _, h := twoNodes(t)
	c := front.login(t)
	_ = h.conn.(*net.TCPConn).SetLinger(0) // as when the node dies
	_ = h.conn.Close()
	c.talk(t, `
		< -ERR [SYS/TEMP] …
		< EOF`)
}

func TestShutdownOfTheFront(t *testing.T) {
	front, _, _ := twoNodes(t)
	c := front.login(t)
	if err := front.Shutdown(t.Context()); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	c.talk(t, `
		< -ERR [SYS/TEMP] …
		< EOF`)
}

// throughAnother reports whether the clients of a test come through another node.
func throughAnother(t testing.TB) bool { return strings.HasPrefix(t.Name(), "TestI40_") }

// I-40: a session that another node lets in and passes on is, octet by octet, like
// one here. Left out is what has a server, a connection or a clock of its own in hand, and
// what fails before a log-in.
func TestI40_ThroughAnotherNode(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"P01": TestP01_LinesThatAreNone, "P02": TestP02_UserDoesNotTell, "P03": TestP03_SecondLoginWhileLocked, "P04": TestP04_NoQuorum,
		"P05": TestP05_NumbersThatAreNone, "P06": TestP06_STLS, "P08": TestP08_QuitThatFails, "P09": TestP09_UniqueIDs,
		"P10": TestP10_MessagesAsTheyAre, "P11": TestP11_LargeMaildrop, "P12": TestP12_IMAPRemovesMeanwhile,
		"AccountDisabled": TestAccountDisabled, "Capabilities": TestCapabilities, "Plain": TestPlain, "Scram": TestScram,
		"Transaction": TestTransaction, "Pipelining": TestPipelining, "DamagedMessage": TestDamagedMessage, "InternalText": TestInternalTextStaysHere,
	} {
		t.Run(name, test)
	}
}
