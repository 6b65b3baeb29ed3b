package imapd

import (
	"encoding/base64"
	"errors"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-sasl"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
)

// errCancelled is the error of an exchange that the peer has called off.
var errCancelled = errors.New("authentication cancelled")

// errNoBase64 is the error of a response that is not base64.
var errNoBase64 = errors.New("not base64")

// authenticate is RFC 3501 section 6.2.2 with RFC 4959.
func (f *front) authenticate(cmd command, c *cursor) (*imap.Error, error) {
	c.sp()
	name := c.run("a mechanism", isAtom)
	var first []byte
	if c.err == nil && c.accept(' ') {
		word := c.run("an initial response", func(b byte) bool { return b > ' ' })
		var err error
		if first, err = decodeSASL([]byte(word)); err != nil {
			c.fail(bad("Malformed base64"))
		}
	}
	c.end()
	if c.err != nil {
		return c.err, nil
	}
	peer := f.peer()
	if !peer.Secure {
		return privacyRequired(), nil
	}
	mech, ok := f.mechanism(name, peer)
	if !ok {
		return no("", "Mechanism not supported"), nil
	}
	var acct *directory.Account
	server, err := f.s.cfg.Logons.SASL(f.ctx, peer, mech, func(a directory.Account) { acct = &a })
	if err != nil {
		return f.failed(cmd.tag, err)
	}
	failure, err := f.exchange(server, first)
	switch {
	case err != nil:
		return nil, err
	case errors.Is(failure, errCancelled):
		return bad("Authentication cancelled"), nil
	case errors.Is(failure, errNoBase64):
		return bad("Malformed base64"), nil
	case failure == nil && acct == nil:
		failure = covey.Errorf(covey.Internal, "%s ended without an account", mech)
	case failure != nil && !carriesKind(failure):
		// The mechanism's own complaint about what the peer sent.
		failure = covey.Errorf(covey.Denied, "%s: %w", mech, failure)
	}
	if failure != nil {
		return f.failed(cmd.tag, failure)
	}
	return f.finish(cmd, mech, *acct, nil)
}

func carriesKind(err error) bool {
	var e *covey.Error
	var k covey.Kind
	return errors.As(err, &e) || errors.As(err, &k)
}

// exchange plays a mechanism to its end. failure is why it failed, err an error of
// the connection.
func (f *front) exchange(server sasl.Server, response []byte) (failure, err error) {
	for {
		challenge, done, failure := server.Next(response)
		if failure != nil {
			return failure, nil
		}
		if done && len(challenge) == 0 {
			return nil, nil
		}
		if err := f.say("+ " + base64.StdEncoding.EncodeToString(challenge) + "\r\n"); err != nil {
			return nil, err
		}
		response, failure, err = f.response()
		if failure != nil || err != nil {
			return failure, err
		}
		if done {
			if len(response) > 0 {
				return errors.New("data after the end"), nil
			}
			return nil, nil
		}
	}
}

// response reads a line of the exchange.
func (f *front) response() (response []byte, failure, err error) {
	f.in.buf = f.in.buf[:0]
	line, err := f.in.line(maxSASL)
	if errors.Is(err, errTooLong) {
		f.over = true
		return nil, errors.New("response too long"), nil
	} else if err != nil {
		return nil, nil, err
	}
	if string(line) == "*" {
		return nil, errCancelled, nil
	}
	response, failure = decodeSASL(line)
	return response, failure, nil
}

// decodeSASL decodes a response; "=" stands for one of no octets, which is not
// the same as none.
func decodeSASL(line []byte) ([]byte, error) {
	if len(line) == 0 || string(line) == "=" {
		return []byte{}, nil
	}
	b, err := base64.StdEncoding.DecodeString(string(line))
	if err != nil {
		return nil, errNoBase64
	}
	return b, nil
}
