package membership

import (
	"strconv"

	"github.com/hashicorp/memberlist"

	"github.com/covey-mail/covey"
)

// delegate is what memberlist asks and tells. It calls from many goroutines, some
// of them holding its own locks: nothing here may block or call it back.
type delegate struct{ *Gossip }

// NodeMeta implements memberlist.Delegate.
func (d delegate) NodeMeta(int) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return encodeMeta(d.self)
}

// NotifyMsg implements memberlist.Delegate. News that came as gossip is passed
// on.
func (d delegate) NotifyMsg(b []byte) {
	d.hear(b, func(Leader, Leader) bool { return true })
}

// GetBroadcasts implements memberlist.Delegate.
func (d delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.leaders.queue.GetBroadcasts(overhead, limit)
}

// LocalState implements memberlist.Delegate.
func (d delegate) LocalState(bool) []byte { return d.leaders.state() }

// MergeRemoteState implements memberlist.Delegate. What is new to a node that
// knew nothing is no news to the rest; what takes the place of something older
// may be, as after a partition.
func (d delegate) MergeRemoteState(b []byte, _ bool) {
	d.hear(b, func(_, old Leader) bool { return old.Term > 0 })
}

func (d delegate) hear(b []byte, pass func(l, old Leader) bool) {
	ls, err := decodeLeaders(b)
	if err != nil {
		d.log.refuse(refusedLeaders, "leaders", err.Error())
		return
	}
	good := ls[:0]
	nonsense := 0
	d.mu.Lock()
	for _, l := range ls {
		switch {
		case !l.sensible():
			nonsense++
		case d.admitted[l.Node]:
			// Who is no member leads nothing; and a node that was forgotten
			// would come back by way of those who have not forgotten it yet.
			good = append(good, l)
		}
	}
	d.mu.Unlock()
	if nonsense > 0 {
		d.log.refuse(refusedLeaders, "leaders", strconv.Itoa(nonsense)+" leaders that cannot be")
	}
	if d.leaders.merge(good, pass) {
		d.poke()
	}
}

// NotifyAlive implements memberlist.AliveDelegate: it decides who may be a member
// at all.
func (d delegate) NotifyAlive(n *memberlist.Node) error {
	id, err := covey.ParseNodeID(n.Name)
	if err != nil {
		return err
	}
	m, err := decodeMeta(n.Meta)
	if err != nil {
		return err
	}
	if m.ID != id || id.String() != n.Name {
		return covey.Errorf(covey.Invalid, "describes itself as %s", m.ID)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.admitted[id] {
		if len(d.admitted) >= maxMembers {
			return covey.Errorf(covey.Limit, "there are %d members", maxMembers)
		}
		d.admitted[id] = true
	}
	return nil
}

// NotifyJoin implements memberlist.EventDelegate.
func (d delegate) NotifyJoin(*memberlist.Node) { d.poke() }

// NotifyLeave implements memberlist.EventDelegate.
func (d delegate) NotifyLeave(*memberlist.Node) { d.poke() }

// NotifyUpdate implements memberlist.EventDelegate.
func (d delegate) NotifyUpdate(*memberlist.Node) { d.poke() }
