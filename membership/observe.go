package membership

import (
	"errors"
	"net"
	"time"

	"github.com/hashicorp/memberlist"
)

// An observer reads the states of all nodes out of a memberlist. There is no
// other way to them: Members returns nodes whose State field is never set,
// events tell neither of suspicion nor whether a dead node left, and nodes
// passed to event callbacks change under the reader's eyes.
//
// But two nodes that join tell each other the state of everyone. So the observer
// is a second, silent memberlist that joins the first over a pipe, time and
// again: it is told everything, by way of its merge delegate, which then refuses
// the merge. It has left before it first joins, and as nobody has heard of it,
// nobody hears that.
type observer struct {
	list *memberlist.Memberlist
	seen []*memberlist.Node // of the look under way
}

// errSeen is why the observer does not merge what it was told.
var errSeen = errors.New("only looking")

// newObserver makes one that looks at whoever serves the streams of t.
func newObserver(cfg *Config, keys *memberlist.Keyring, t Transport) (*observer, error) {
	o := &observer{}
	m := cfg.base(keys)
	m.Name = "observer"
	m.ProbeInterval, m.GossipInterval, m.PushPullInterval = 0, 0, 0
	m.Transport = pipe{t}
	m.Merge = o
	var err error
	if o.list, err = memberlist.Create(m); err != nil {
		return nil, err
	}
	return o, o.list.Leave(0)
}

// NotifyMerge implements memberlist.MergeDelegate.
func (o *observer) NotifyMerge(peers []*memberlist.Node) error {
	o.seen = peers
	return errSeen
}

// look returns all nodes as they are now, with State; they belong to the caller.
// It returns none if it was told none, as when there is no time for it.
func (o *observer) look() []*memberlist.Node {
	o.seen = nil
	_, _ = o.list.Join([]string{pipeAddr}) // fails with errSeen
	return o.seen
}

func (o *observer) close() { _ = o.list.Shutdown() }

const pipeAddr = "127.0.0.1:1"

// pipe is the observer's transport: whatever is dialled, it reaches t.
type pipe struct{ t Transport }

func (p pipe) DialTimeout(_ string, timeout time.Duration) (net.Conn, error) {
	here, there := net.Pipe()
	_ = here.SetDeadline(time.Now().Add(timeout))
	if err := p.t.IngestStream(there); err != nil {
		here.Close()
		return nil, err
	}
	return here, nil
}

func (p pipe) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return net.IPv4(127, 0, 0, 1), 1, nil
}

func (p pipe) WriteTo([]byte, string) (time.Time, error) { return time.Now(), nil }
func (p pipe) PacketCh() <-chan *memberlist.Packet       { return nil }
func (p pipe) StreamCh() <-chan net.Conn                 { return nil }
func (p pipe) Shutdown() error                           { return nil }
