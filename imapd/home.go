package imapd

import (
	"context"
	"net"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/internal/handoff"
	"github.com/covey-mail/covey/internal/serve"
)

// Service is what sessions of this package are called among nodes.
const Service = "imap"

// farewell is what a client hears whose home node has gone.
const farewell = "* BYE [UNAVAILABLE] Server is not available, log in again\r\n"

// admit finds out where the session of l runs, and has it admitted there.
func (s *Server) admit(ctx context.Context, l *login) error {
	if s.cfg.Homes != nil {
		home, err := s.cfg.Homes.Home(ctx, Service, handoff.Login{
			Account: l.Account.ID, Shard: l.Account.Shard, Address: l.Account.Address, Quota: l.Account.Quota,
			Remote: l.Remote, Session: l.Session, TLS: l.TLS, Mechanism: l.Mechanism, Leftover: l.Leftover,
		})
		if l.home = home; home != nil || err != nil {
			return err
		}
	}
	return s.enter(l.Account.ID)
}

// dismiss undoes admit.
func (s *Server) dismiss(l *login) {
	if l.home != nil {
		_ = l.home.Close() // the home node ends the session
		return
	}
	s.leave(l.Account.ID)
}

// relay passes octets between a client and its home node until the session ends.
func (s *Server) relay(conn net.Conn, l login) {
	if c := serve.From(conn); c != nil {
		c.Trust()
		c.Renew(serve.Limits{Idle: s.cfg.IdleTime + time.Minute, Write: s.cfg.WriteTime + time.Minute})
	}
	_ = conn.SetDeadline(time.Time{}) // a closed connection shows at the read
	r := handoff.NewRelay(conn, l.home, farewell)
	s.mu.Lock()
	s.relays[r] = struct{}{}
	stopping := s.stopping
	s.mu.Unlock()
	if stopping {
		r.Stop()
	}
	began := time.Now()
	written := r.Run()
	s.mu.Lock()
	delete(s.relays, r)
	s.mu.Unlock()
	s.cfg.Logger.Info("imap session relayed", "session", l.Session, "account", l.Account.Address.String(),
		"remote", l.Remote, "tls", l.TLS, "written", written, "duration", time.Since(began).Round(time.Millisecond))
}

// Resume runs a session that a front on another node has let in. conn is the
// client's connection, and Resume's from then on; it does not wait for the end of
// the session.
func (s *Server) Resume(conn net.Conn, from handoff.Login) {
	l := login{
		Account: directory.Account{ID: from.Account, Shard: from.Shard, Address: from.Address, Quota: from.Quota},
		Remote:  from.Remote, Session: from.Session, TLS: from.TLS, Mechanism: from.Mechanism, Leftover: from.Leftover,
	}
	if err := s.resume(l.Account.ID); err != nil {
		_ = handoff.Refuse(conn, err) // the front may be gone
		return
	}
	defer s.conns.Done()
	if err := handoff.Accept(conn); err != nil {
		s.leave(l.Account.ID)
		_ = conn.Close() // the front is gone
		return
	}
	s.handOver(conn, l)
}

// resume counts a session that comes from another node, and holds s.conns for the
// caller.
func (s *Server) resume(id covey.AccountID) error {
	if err := s.enter(id); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping { // since enter
		return covey.Errorf(covey.Unavailable, "server is stopping")
	}
	s.startLocked()
	s.conns.Add(1)
	return nil
}

// End ends the sessions of a shard, which another node leads now: each is told
// once the command under way is answered.
func (s *Server) End(shard covey.ShardID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for g := range s.guards {
		if g.login.Account.Shard == shard {
			g.stop()
		}
	}
}
