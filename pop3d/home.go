package pop3d

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/internal/handoff"
	"github.com/covey-mail/covey/internal/serve"
)

// Service is what sessions of this package are called among nodes.
const Service = "pop3"

// farewell is what a client hears whose home node has gone.
const farewell = "-ERR [SYS/TEMP] maildrop is not available, log in again\r\n"

// home returns the stream to the account's home node, nil if that is this one.
func (s *session) home(ctx context.Context, acct directory.Account) (net.Conn, error) {
	ahead, _ := s.r.Peek(s.r.Buffered())
	return s.srv.cfg.Homes.Home(ctx, Service, handoff.Login{
		Account: acct.ID, Shard: acct.Shard, Address: acct.Address, Quota: acct.Quota,
		Remote: s.raw.Remote().String(), Session: s.id, TLS: s.tls, Leftover: bytes.Clone(ahead),
	})
}

// relay passes octets between the client and its home node until the session
// ends. What the client sent ahead is with the home node already.
func (s *session) relay(home net.Conn) error {
	s.raw.Trust()
	s.raw.Renew(s.limits(0))
	if err := s.w.Flush(); err != nil {
		_ = home.Close() // it ends the session
		return ending("connection lost")
	}
	_ = s.conn.SetReadDeadline(time.Time{}) // a closed connection shows at the read
	r := handoff.NewRelay(s.conn, home, farewell)
	srv := s.srv
	srv.mu.Lock()
	srv.relays[r] = struct{}{}
	stopping := srv.stopping
	srv.mu.Unlock()
	if stopping {
		r.Stop()
	}
	s.octets = r.Run()
	srv.mu.Lock()
	delete(srv.relays, r)
	srv.mu.Unlock()
	return ending("relayed")
}

// Resume runs a session that a front on another node has let in. conn is the
// client's connection, and Resume's from then on; it does not wait for the end of
// the session.
func (s *Server) Resume(conn net.Conn, from handoff.Login) {
	remote, _ := netip.ParseAddr(from.Remote) // for the log; none if it came by a Unix socket
	ss := newSession(s, conn, relayed{conn, remote})
	ss.id, ss.tls, ss.resumed = from.Session, from.TLS, &from
	ss.r.Reset(io.MultiReader(bytes.NewReader(from.Leftover), conn))
	s.start(ss)
}

// relayed is a link to a peer that another node has let in, and bounds.
type relayed struct {
	net.Conn
	remote netip.Addr
}

func (r relayed) Remote() netip.Addr { return r.remote }
func (relayed) Trust()               {}
func (relayed) Renew(serve.Limits)   {}
func (relayed) BeginTLS()            {}

// resume opens the maildrop and answers the front and the client. It returns why
// the session ends, "" if it goes on.
func (s *session) resume(ctx context.Context) string {
	from := s.resumed
	s.account = directory.Account{ID: from.Account, Shard: from.Shard, Address: from.Address, Quota: from.Quota}
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	if err := s.openDrop(ctx, s.account); err != nil {
		_ = handoff.Refuse(s.conn, err) // the front may be gone
		return "refused: " + err.Error()
	}
	if err := handoff.Accept(s.conn); err != nil {
		return "connection lost"
	}
	s.welcome()
	return ""
}

// End ends the sessions of a shard, which another node leads now: each is told
// once the command under way is answered.
func (s *Server) End(shard covey.ShardID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ss, of := range s.sessions {
		if of == shard {
			ss.moved.Store(true)
			_ = ss.raw.SetReadDeadline(time.Unix(1, 0))
		}
	}
}
