package logon

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"

	"github.com/xdg-go/scram"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/directory/password"
)

// A scramServer drives one SCRAM-SHA-256 exchange: client-first, client-final, and
// the empty response that takes note of the server's signature. Only the second
// is a guess, and counted as a try.
type scramServer struct {
	exchange
	conv    *scram.ServerConversation
	step    int
	name    name
	user    found
	account directory.Account // once proven
}

func newScram(x exchange) (*scramServer, error) {
	s := &scramServer{exchange: x}
	server, err := scram.SHA256.NewServer(s.lookup)
	if err != nil {
		return nil, fmt.Errorf("make a SCRAM server: %w", err)
	}
	s.conv = server.NewConversation()
	return s, nil
}

// lookup gives the conversation a user's keys. A user who has none gets a salt
// that is always the same, and keys that nothing matches.
func (s *scramServer) lookup(user string) (scram.StoredCredentials, error) {
	s.name = s.service.parseName(user)
	var err error
	if s.user, err = s.service.find(s.ctx, s.name); err != nil {
		return scram.StoredCredentials{}, err
	}
	v, err := password.ParseScram(s.user.Verifier)
	if err != nil {
		v = s.service.fakeScram(s.name)
		s.user = found{}
	}
	return scram.StoredCredentials{
		KeyFactors: scram.KeyFactors{Salt: string(v.Salt), Iters: v.Iterations},
		StoredKey:  v.StoredKey,
		ServerKey:  v.ServerKey,
	}, nil
}

// fakeScram returns the verifier of a user who has none.
func (s *Service) fakeScram(n name) password.Scram {
	derive := func(use string) []byte {
		mac := hmac.New(sha256.New, s.cfg.SaltKey())
		mac.Write([]byte(use + "\x00" + n.key))
		return mac.Sum(nil)
	}
	return password.Scram{
		Iterations: password.ScramIterations,
		Salt:       derive("salt")[:password.ScramSalt],
		StoredKey:  derive("stored key"),
		ServerKey:  derive("server key"),
	}
}

// Next implements sasl.Server.
func (s *scramServer) Next(response []byte) ([]byte, bool, error) {
	if err := s.check(response); err != nil {
		return nil, false, err
	}
	if response == nil && s.step == 0 {
		return []byte{}, false, nil
	}
	s.step++
	switch s.step {
	case 1:
		return s.first(response)
	case 2:
		return s.final(response)
	}
	s.over = true
	if len(response) > 0 {
		return nil, false, covey.Errorf(covey.Invalid, "SCRAM: response after the end")
	}
	s.done(s.account)
	return nil, true, nil
}

func (s *scramServer) first(response []byte) ([]byte, bool, error) {
	challenge, err := s.conv.Step(string(response))
	if err != nil {
		s.over = true
		if kind := covey.KindOf(err); kind != covey.Internal {
			return nil, false, err // of the look-up
		}
		return nil, false, covey.Errorf(covey.Invalid, "SCRAM: %w", err)
	}
	return []byte(challenge), false, nil
}

func (s *scramServer) final(response []byte) ([]byte, bool, error) {
	var signature string
	account, err := s.service.try(s.ctx, s.conn, s.name, func() (directory.Account, string, error) {
		var err error
		signature, err = s.conv.Step(string(response))
		switch reason := s.user.obstacle(); {
		case reason != "":
			return directory.Account{}, reason, nil
		case err != nil || !s.conv.Valid():
			return directory.Account{}, "wrong SCRAM proof", nil
		case s.conv.AuthzID() != "" && s.service.parseName(s.conv.AuthzID()).key != s.name.key:
			return directory.Account{}, "asked for another identity", nil
		}
		return s.user.Account, "", nil
	})
	if err != nil {
		s.over = true
		return nil, false, err
	}
	s.account = account
	return []byte(signature), false, nil
}
