package logon

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/google/go-cmp/cmp"
	"github.com/xdg-go/scram"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/directory/directorytest"
)

// submission is a connection on which every mechanism is offered.
func submission() Conn {
	c := from("192.0.2.1")
	c.Protocol = "submission"
	return c
}

// run drives a server with the client's responses and returns whom it let in.
func run(t *testing.T, s *Service, mech string, client sasl.Client) (directory.Account, error) {
	t.Helper()
	var got []directory.Account
	server, err := s.SASL(t.Context(), submission(), mech, func(a directory.Account) { got = append(got, a) })
	if err != nil {
		t.Fatal(err)
	}
	_, response, err := client.Start()
	if err != nil {
		t.Fatal(err)
	}
	for {
		challenge, done, err := server.Next(response)
		if err != nil {
			if len(got) > 0 {
				t.Errorf("done was called before %v", err)
			}
			return directory.Account{}, err
		}
		if done {
			if len(got) != 1 {
				t.Fatalf("done was called %d times", len(got))
			}
			return got[0], nil
		}
		if response, err = client.Next(challenge); err != nil {
			t.Fatalf("client: %v", err)
		}
		if response == nil {
			response = []byte{}
		}
	}
}

// scramClient is the client side of SCRAM-SHA-256 as a sasl.Client.
type scramClient struct{ conv *scram.ClientConversation }

func newScramClient(t *testing.T, user, pass, authz string) sasl.Client {
	t.Helper()
	c, err := scram.SHA256.NewClient(user, pass, authz)
	if err != nil {
		t.Fatal(err)
	}
	return scramClient{c.NewConversation()}
}

func (c scramClient) Start() (string, []byte, error) {
	first, err := c.conv.Step("")
	return mechScram, []byte(first), err
}

func (c scramClient) Next(challenge []byte) ([]byte, error) {
	response, err := c.conv.Step(string(challenge))
	return []byte(response), err
}

func TestMechanisms(t *testing.T) {
	s, dir, _ := open(t, Config{Delay: -1})
	clear := submission()
	clear.Secure = false
	for _, tt := range []struct {
		name string
		conn Conn
		want []string
	}{
		{"S-25/clear", clear, nil},
		{"submission", submission(), []string{"PLAIN", "LOGIN"}},
		{"imap", from("192.0.2.1"), []string{"PLAIN"}},
	} {
		if diff := cmp.Diff(tt.want, s.Mechanisms(tt.conn)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	if _, err := s.SASL(t.Context(), clear, "PLAIN", nil); !errors.Is(err, covey.Denied) {
		t.Errorf("S-25: SASL in clear: %v, want denied", err)
	}
	if _, err := s.Password(t.Context(), clear, "alice", "secret"); !errors.Is(err, covey.Denied) {
		t.Errorf("S-25: password in clear: %v, want denied", err)
	}
	for _, mech := range []string{"SCRAM-SHA-256", "GSSAPI", ""} {
		if _, err := s.SASL(t.Context(), submission(), mech, nil); !errors.Is(err, covey.NotFound) {
			t.Errorf("S-29: mechanism %q: %v, want not found", mech, err)
		}
	}
	// The first PLAIN log-in makes the verifier of an imported account, and with
	// the last one SCRAM is offered.
	if a, err := run(t, s, "plain", sasl.NewPlainClient("", "alice", "secret")); err != nil || a.Address.Local != "alice" {
		t.Fatalf("PLAIN: %v, %v", a, err)
	}
	if !dir.ScramReady() || !slices.Contains(s.Mechanisms(submission()), "SCRAM-SHA-256") {
		t.Error("SCRAM is not offered after the last account's first log-in")
	}
	if a, err := run(t, s, "SCRAM-SHA-256", newScramClient(t, "alice@example.org", "secret", "")); err != nil || a.Address.Local != "alice" {
		t.Errorf("SCRAM: %v, %v", a, err)
	}
}

func TestSASLOutcomes(t *testing.T) {
	s, dir, _ := open(t, Config{Delay: -1, PerAddr: 1000})
	directorytest.Add(t, dir, "bob@example.org", "bob's own")
	if _, err := s.Password(t.Context(), submission(), "alice", "secret"); err != nil {
		t.Fatal(err) // makes alice's verifier
	}
	const alice = "alice@example.org"
	for _, tt := range []struct {
		name        string
		authz, user string
		pass        string
		want        error
	}{
		{"right", "", alice, "secret", nil},
		{"upper case", "", "ALICE@EXAMPLE.ORG", "secret", nil},
		{"local part alone", "", "alice", "secret", nil},
		{"S-28/same identity", alice, alice, "secret", nil},
		{"S-28/same identity, shorter", "alice", alice, "secret", nil},
		{"S-28/another identity", "bob@example.org", alice, "secret", covey.Denied},
		{"S-28/nobody's identity", "nobody", alice, "secret", covey.Denied},
		{"S-27/wrong password", "", alice, "Secret", covey.Denied},
		{"S-27/another's password", "", alice, "bob's own", covey.Denied},
		{"S-27/unknown user", "", "nobody@example.org", "secret", covey.Denied},
	} {
		clients := map[string]sasl.Client{
			mechPlain: sasl.NewPlainClient(tt.authz, tt.user, tt.pass),
			mechScram: newScramClient(t, tt.user, tt.pass, tt.authz),
		}
		if tt.authz == "" {
			clients[mechLogin] = sasl.NewLoginClient(tt.user, tt.pass)
		}
		for mech, client := range clients {
			t.Run(mech+"/"+tt.name, func(t *testing.T) {
				a, err := run(t, s, mech, client)
				if !errors.Is(err, tt.want) {
					t.Fatalf("%v, %v; want %v", a, err, tt.want)
				}
				if err != nil && err.Error() != denied().Error() {
					t.Errorf("says %q, not what all others say", err)
				}
				if err == nil && a.Address.String() != alice {
					t.Errorf("let in %v", a)
				}
			})
		}
	}
}

// S-26, S-30: what is malformed is Invalid, counts as no guess, and ends the
// exchange.
func TestS26_Malformed(t *testing.T) {
	s, dir, _ := open(t, Config{Delay: -1, PerAddr: 1})
	if err := dir.SetPassword(t.Context(), covey.Address{Local: "alice", Domain: "example.org"}, "secret"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, mech string
		responses  []string
	}{
		{"one NUL", mechPlain, []string{"alice\x00secret"}},
		{"three NULs", mechPlain, []string{"\x00alice\x00sec\x00ret"}},
		{"no user", mechPlain, []string{"\x00\x00secret"}},
		{"empty", mechPlain, []string{""}},
		{"S-30/long", mechPlain, []string{"\x00alice\x00" + strings.Repeat("x", 5000)}},
		{"S-30/long user", mechLogin, []string{strings.Repeat("x", 5000)}},
		{"S-30/long password", mechLogin, []string{"alice", strings.Repeat("x", 5000)}},
		{"no message", mechScram, []string{"hello"}},
		{"channel binding", mechScram, []string{"p=tls-unique,,n=alice,r=abc"}},
		{"S-30/long nonce", mechScram, []string{"n,,n=alice,r=" + strings.Repeat("x", 5000)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server, err := s.SASL(t.Context(), submission(), tt.mech, func(directory.Account) { t.Error("let in") })
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range tt.responses {
				_, _, err = server.Next([]byte(r))
			}
			if !errors.Is(err, covey.Invalid) {
				t.Errorf("%v, want invalid", err)
			}
			if _, _, err := server.Next([]byte("\x00alice\x00secret")); !errors.Is(err, covey.Invalid) {
				t.Errorf("after the end: %v, want invalid", err)
			}
		})
	}
	if _, err := s.Password(t.Context(), submission(), "alice", "secret"); err != nil {
		t.Errorf("after malformed exchanges: %v", err)
	}
}

// Without an initial response a server asks for one.
func TestServersPrompt(t *testing.T) {
	s, dir, _ := open(t, Config{Delay: -1})
	if err := dir.SetPassword(t.Context(), covey.Address{Local: "alice", Domain: "example.org"}, "secret"); err != nil {
		t.Fatal(err)
	}
	for mech, prompts := range map[string][]string{mechPlain: {""}, mechLogin: {"Username:", "Password:"}, mechScram: {""}} {
		server, err := s.SASL(t.Context(), submission(), mech, func(directory.Account) {})
		if err != nil {
			t.Fatal(err)
		}
		var response []byte
		for _, want := range prompts {
			got, done, err := server.Next(response)
			if err != nil || done || got == nil || string(got) != want {
				t.Errorf("%s: challenge %q, %v, %v; want %q", mech, got, done, err, want)
			}
			response = []byte("alice")
		}
	}
}

// SCRAM shows a user who does not exist a salt like any other's, and the
// same each time.
func TestR18_ScramOfUnknownUsers(t *testing.T) {
	s, dir, _ := open(t, Config{Delay: -1, SaltKey: func() []byte { return []byte("k") }})
	if err := dir.SetPassword(t.Context(), covey.Address{Local: "alice", Domain: "example.org"}, "secret"); err != nil {
		t.Fatal(err)
	}
	first := func(user string) (salt string, length int) {
		server, err := s.SASL(t.Context(), submission(), mechScram, nil)
		if err != nil {
			t.Fatal(err)
		}
		challenge, _, err := server.Next([]byte("n,,n=" + user + ",r=abcdef"))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(challenge), ",")
		return rest, len(challenge)
	}
	known, n := first("alice")
	fake, m := first("nobody")
	if n != m || known == fake || !strings.HasSuffix(fake, ",i=4096") {
		t.Errorf("known %q of %d octets, unknown %q of %d", known, n, fake, m)
	}
	if again, _ := first("Nobody@example.org"); again != fake {
		t.Errorf("unknown user: %q the first time, %q the second", fake, again)
	}
	if other, _ := first("somebody"); other == fake {
		t.Error("two unknown users have one salt")
	}
}

// FuzzSASL sends whatever to each mechanism: nobody is let in, nothing panics.
func FuzzSASL(f *testing.F) {
	for _, mech := range []string{mechPlain, mechLogin, mechScram} {
		f.Add(mech, []byte("\x00alice\x00x"), []byte("x"), []byte(nil))
		f.Add(mech, []byte("n,,n=alice,r=fyko"), []byte("c=biws,r=fyko,p=AAAA"), []byte{})
		f.Add(mech, []byte("y,a=bob,n=a=2Cb,r="), []byte("c=,r=,p="), []byte("v="))
	}
	dir := directorytest.New(f)
	directorytest.Add(f, dir, "alice@example.org", "")
	s, err := New(Config{Directory: dir, Delay: -1, PerAddr: 1 << 30, PerDay: 1 << 30})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, mech string, a, b, c []byte) {
		server, err := s.SASL(t.Context(), submission(), mech, func(directory.Account) { t.Error("let in") })
		if err != nil {
			return
		}
		for _, response := range [][]byte{a, b, c, bytes.Repeat(a, 2)} {
			if _, done, err := server.Next(response); done && err == nil {
				t.Errorf("%s: done", mech)
			}
		}
	})
}
