package logon

import (
	"context"
	"slices"
	"strings"

	"github.com/emersion/go-sasl"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
)

// Names of SASL mechanisms.
const (
	mechPlain = "PLAIN"         // RFC 4616
	mechLogin = "LOGIN"         // draft-murchison-sasl-login; for old submission clients
	mechScram = "SCRAM-SHA-256" // RFC 7677
)

// maxResponse bounds one response of a client, in octets.
const maxResponse = 4096

// Mechanisms returns the names of the mechanisms to offer on a connection, none
// where a password would travel in clear. LOGIN is for submission only. SCRAM is
// offered once every account can use it, as clients that know it try nothing else.
func (s *Service) Mechanisms(c Conn) []string {
	if !c.Secure {
		return nil
	}
	list := []string{mechPlain}
	if c.Protocol == "submission" {
		list = append(list, mechLogin)
	}
	if s.dir.ScramReady() {
		list = append(list, mechScram)
	}
	return list
}

// SASL returns a server for one exchange by a mechanism, whose name may be in any
// case. NotFound: it is not offered. Denied: the connection is in clear.
//
// The server's Next fails like Password, and with Invalid for what is malformed.
// done is called once, by Next, before it reports success. ctx bounds the whole
// exchange.
func (s *Service) SASL(ctx context.Context, c Conn, mech string, done func(directory.Account)) (sasl.Server, error) {
	if !c.Secure {
		return nil, covey.Errorf(covey.Denied, "logging in needs TLS")
	}
	mech = strings.ToUpper(mech)
	if !slices.Contains(s.Mechanisms(c), mech) {
		return nil, covey.Errorf(covey.NotFound, "mechanism %.20q is not offered", mech)
	}
	x := exchange{ctx: ctx, service: s, conn: c, done: done}
	switch mech {
	case mechPlain:
		return &plain{exchange: x}, nil
	case mechLogin:
		return &login{exchange: x}, nil
	}
	return newScram(x)
}

// An exchange is what the servers of all mechanisms have.
type exchange struct {
	ctx     context.Context // of the exchange; a sasl.Server is given none per step
	service *Service
	conn    Conn
	done    func(directory.Account)
	over    bool // succeeded or failed
}

// check refuses a response that is too long or comes after the end.
func (x *exchange) check(response []byte) error {
	if x.over || len(response) > maxResponse {
		x.over = true
		return covey.Errorf(covey.Invalid, "unexpected SASL response of %d octets", len(response))
	}
	return nil
}

// finish verifies a password and ends the exchange.
func (x *exchange) finish(n name, pass string) ([]byte, bool, error) {
	x.over = true
	account, err := x.service.password(x.ctx, x.conn, n, pass)
	if err != nil {
		return nil, false, err
	}
	x.done(account)
	return nil, true, nil
}

type plain struct{ exchange }

// Next implements sasl.Server.
func (p *plain) Next(response []byte) ([]byte, bool, error) {
	if err := p.check(response); err != nil {
		return nil, false, err
	}
	if response == nil {
		return []byte{}, false, nil
	}
	f := strings.Split(string(response), "\x00")
	if len(f) != 3 || f[1] == "" {
		p.over = true
		return nil, false, covey.Errorf(covey.Invalid, "PLAIN: want authzid NUL authcid NUL password")
	}
	n := p.service.parseName(f[1])
	if f[0] != "" && p.service.parseName(f[0]).key != n.key {
		p.over = true
		return nil, false, p.service.denyIdentity(p.ctx, p.conn, n)
	}
	return p.finish(n, f[2])
}

// denyIdentity refuses to let one user act as another, as a wrong password is
// refused.
func (s *Service) denyIdentity(ctx context.Context, c Conn, n name) error {
	_, err := s.try(ctx, c, n, func() (directory.Account, string, error) {
		return directory.Account{}, "asked for another identity", nil
	})
	return err
}

type login struct {
	exchange
	asked int // prompts sent
	user  name
}

// Next implements sasl.Server. An initial response is the user's name.
func (l *login) Next(response []byte) ([]byte, bool, error) {
	if err := l.check(response); err != nil {
		return nil, false, err
	}
	if response == nil && l.asked == 0 {
		l.asked = 1
		return []byte("Username:"), false, nil
	}
	if l.asked < 2 {
		l.user, l.asked = l.service.parseName(string(response)), 2
		return []byte("Password:"), false, nil
	}
	return l.finish(l.user, string(response))
}
