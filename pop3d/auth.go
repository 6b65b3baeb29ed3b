package pop3d

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"strings"

	"github.com/emersion/go-sasl"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
)

// authorization carries out the commands of the AUTHORIZATION state.
func (s *session) authorization(ctx context.Context, verb, arg string) error {
	if verb == "STLS" {
		return s.stls(ctx, arg)
	}
	if !s.secure() {
		return fault("log in over TLS only")
	}
	if verb == "USER" {
		return s.setUser(arg)
	}
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	if verb == "PASS" {
		return s.pass(ctx, arg)
	}
	return s.auth(ctx, arg)
}

func (s *session) canSTLS() bool { return s.srv.cfg.TLS != nil && !s.tls }

// stls starts TLS (RFC 2595 section 4).
func (s *session) stls(ctx context.Context, arg string) error {
	switch {
	case arg != "":
		return fault("STLS takes no argument")
	case !s.canSTLS():
		return fault("STLS is not offered here")
	case s.r.Buffered() > 0:
		// Whatever came with it in clear text might have been put there by a third
		// party; run under TLS it would pass for the client's.
		return &refusal{text: "nothing may follow STLS before the handshake", fault: true, end: true}
	}
	s.ok("begin TLS")
	if err := s.w.Flush(); err != nil {
		return ending("connection lost")
	}
	s.raw.BeginTLS()
	c := tls.Server(s.conn, s.srv.cfg.TLS)
	if err := handshake(ctx, c); err != nil {
		return ending("tls")
	}
	s.conn, s.tls, s.user = c, true, ""
	s.r.Reset(c)
	s.w.Reset(c)
	return nil
}

// setUser keeps the name for PASS. It answers the same whether there is such an
// account or not.
func (s *session) setUser(arg string) error {
	if strings.TrimSpace(arg) == "" {
		return fault("USER takes a name")
	}
	s.user = arg
	s.ok("send PASS")
	return nil
}

// pass logs in. The password is all of the argument, blanks included.
func (s *session) pass(ctx context.Context, arg string) error {
	user := s.user
	if user == "" {
		return fault("USER comes first")
	}
	s.user = ""
	acct, err := s.srv.cfg.Logon.Password(ctx, s.peer(), user, arg)
	if err != nil {
		return s.failed(err)
	}
	return s.enter(ctx, acct)
}

// auth logs in by SASL (RFC 5034). Without a mechanism it lists them, which
// clients older than CAPA ask for.
func (s *session) auth(ctx context.Context, arg string) error {
	if arg == "" {
		s.ok("mechanisms follow")
		for _, m := range s.srv.cfg.Logon.Mechanisms(s.peer()) {
			_, _ = s.w.WriteString(m + "\r\n")
		}
		s.dot()
		return nil
	}
	mech, initial, hasInitial := strings.Cut(arg, " ")
	var response []byte
	if hasInitial {
		var err error
		if response, err = decodeInitial(initial); err != nil {
			return err
		}
	}
	var acct *directory.Account
	server, err := s.srv.cfg.Logon.SASL(ctx, s.peer(), strings.ToUpper(mech), func(a directory.Account) { acct = &a })
	if errors.Is(err, covey.NotFound) || errors.Is(err, covey.Invalid) {
		return fault("mechanism is not offered")
	}
	if err != nil {
		return err
	}
	if err := s.exchange(server, response); err != nil {
		return err
	}
	if acct == nil { // a mechanism that lets in without naming anybody
		return s.failed(covey.Errorf(covey.Denied, "mechanism %q named no account", mech))
	}
	return s.enter(ctx, *acct)
}

// exchange runs a SASL mechanism to its good end. response is the initial one,
// nil for none.
func (s *session) exchange(server sasl.Server, response []byte) error {
	for {
		challenge, done, err := server.Next(response)
		if err != nil {
			return s.failed(err)
		}
		if done && len(challenge) == 0 {
			return nil
		}
		if response, err = s.challenge(challenge); err != nil {
			return err
		}
		if done { // the last challenge came with success; its answer is empty
			if len(response) > 0 {
				return fault("unexpected response")
			}
			return nil
		}
	}
}

// challenge sends a challenge and returns the response, not nil.
func (s *session) challenge(c []byte) ([]byte, error) {
	_, _ = s.w.WriteString("+ " + base64.StdEncoding.EncodeToString(c) + "\r\n")
	line, err := s.readLine()
	if err != nil {
		return nil, err
	}
	if string(line) == "*" {
		return nil, &refusal{text: "authentication cancelled"}
	}
	return decodeResponse(string(line))
}

func decodeInitial(arg string) ([]byte, error) {
	if arg == "=" { // an empty one (RFC 5034 section 4)
		return []byte{}, nil
	}
	if arg == "" {
		return nil, fault("bad base64")
	}
	return decodeResponse(arg)
}

func decodeResponse(text string) ([]byte, error) {
	p, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") { // which the decoder would skip
		return nil, fault("bad base64")
	}
	return p, nil
}

// failed counts a log-in that was not let in.
func (s *session) failed(err error) error {
	switch covey.KindOf(err) {
	case covey.Denied, covey.Invalid:
		s.failures++
	}
	return err
}

// enter opens the maildrop of somebody who may, here or on its home node.
func (s *session) enter(ctx context.Context, acct directory.Account) error {
	s.account = acct
	if s.srv.cfg.Homes != nil {
		home, err := s.home(ctx, acct)
		if err != nil {
			return err
		}
		if home != nil {
			return s.relay(home)
		}
	}
	if err := s.openDrop(ctx, acct); err != nil {
		return err
	}
	s.raw.Trust()
	s.raw.Renew(s.limits(0))
	s.welcome()
	return nil
}

// openDrop opens the maildrop on this node.
func (s *session) openDrop(ctx context.Context, acct directory.Account) (err error) {
	s.drop, err = openMaildrop(ctx, s.srv.cfg.Mail.Account(acct.ID, acct.Shard, acct.Quota))
	if err != nil {
		return err
	}
	s.srv.mu.Lock()
	defer s.srv.mu.Unlock()
	s.srv.sessions[s] = acct.Shard
	return nil
}

func (s *session) welcome() { s.ok("%d messages (%d octets)", s.drop.box.Messages, s.drop.box.Bytes) }
