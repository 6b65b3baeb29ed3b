package smtpd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"go.uber.org/goleak"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/delivery"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/logon"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// delivered is a message that a mailroom took.
type delivered struct {
	From     string
	To       []string
	Header   string
	Body     string
	Receipt  covey.DeliveryID
	Confirms int
	Losses   int
}

// A mailroom is a Delivery in memory. example.org is its only domain, with the
// users alice and bob, and the catch-all domain any.example.
type mailroom struct {
	mu      sync.Mutex // guards what follows
	mail    []delivered
	asked   []string         // recipients looked up
	apart   int              // messages whose recipients have an outcome each
	rcpt    map[string]error // by local part, for Recipient
	outcome map[string]error // by local part, for Deliver
	err     error            // of Deliver
	room    error
	discard bool          // keeps nothing
	arrived chan struct{} // not nil: told when Deliver has read a message
	proceed chan struct{} // not nil: awaited then
	panics  atomic.Bool   // in Room
}

func newMailroom() *mailroom {
	return &mailroom{rcpt: make(map[string]error), outcome: make(map[string]error)}
}

func (m *mailroom) Recipient(_ context.Context, to covey.Address) (delivery.Recipient, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = append(m.asked, to.String())
	base, _ := to.Key().Base()
	if err := m.rcpt[base.Local]; err != nil {
		return delivery.Recipient{}, err
	}
	switch {
	case base.Local == "postmaster" && base.Domain == "", base.Domain == "any.example":
	case base.Domain != "example.org":
		return delivery.Recipient{}, covey.Errorf(covey.Denied, "not local: secret text")
	case !slices.Contains([]string{"alice", "bob", "carol", "postmaster"}, base.Local):
		return delivery.Recipient{}, covey.Errorf(covey.NotFound, "nobody: secret text")
	}
	return delivery.Recipient{Address: to, Targets: []directory.Account{{ID: 1, Shard: 1, Address: base}}}, nil
}

func (m *mailroom) Deliver(ctx context.Context, e delivery.Envelope, data io.Reader) (delivery.Receipt, error) {
	var body strings.Builder
	var to io.Writer = &body
	if m.discard {
		to = io.Discard
	}
	if _, err := io.Copy(to, data); err != nil {
		return delivery.Receipt{}, fmt.Errorf("read: %w", err)
	}
	if m.arrived != nil {
		m.arrived <- struct{}{}
		select {
		case <-m.proceed:
		case <-ctx.Done():
			return delivery.Receipt{}, ctx.Err()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return delivery.Receipt{}, m.err
	}
	if m.discard {
		return delivery.Receipt{Outcomes: make([]error, len(e.Recipients))}, nil
	}
	if !e.Together {
		m.apart++
	}
	d := delivered{From: e.From.String(), Header: string(e.Header), Body: body.String()}
	d.Receipt.Seq = uint64(len(m.mail) + 1)
	rec := delivery.Receipt{ID: d.Receipt}
	for _, r := range e.Recipients {
		err := m.outcome[r.Address.Local]
		rec.Outcomes = append(rec.Outcomes, err)
		if err == nil {
			d.To = append(d.To, r.Address.String())
		}
	}
	if len(d.To) > 0 {
		m.mail = append(m.mail, d)
	}
	return rec, nil
}

func (m *mailroom) Confirm(r delivery.Receipt) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.mail {
		if m.mail[i].Receipt == r.ID {
			m.mail[i].Confirms++
		}
	}
}

func (m *mailroom) Lost(r delivery.Receipt) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.mail {
		if m.mail[i].Receipt == r.ID {
			m.mail[i].Losses++
		}
	}
}

func (m *mailroom) Room() error {
	if m.panics.Load() {
		panic("out of order")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.room
}

// messages returns what was taken so far.
func (m *mailroom) messages() []delivered {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.mail)
}

func (m *mailroom) lookups() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.asked)
}

// owners is a Directory: account 1 may send as alice, with or without detail.
type owners struct{}

func (owners) Owns(_ context.Context, id covey.AccountID, from covey.Address) (bool, error) {
	base, _ := from.Key().Base()
	if base.Local == "unwell" {
		return false, covey.Errorf(covey.Unavailable, "directory is away")
	}
	return id == 1 && base == covey.Address{Local: "alice", Domain: "example.org"}, nil
}

// doorman is a Logon: alice's password is "sesame", and "enough" is one try too
// many.
type doorman struct {
	mu     sync.Mutex // guards what follows
	seen   []logon.Conn
	barred bool // alice may not log in any more
}

func (d *doorman) bar() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.barred = true
}

func (d *doorman) Allowed(context.Context, directory.Account) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.barred {
		return covey.Errorf(covey.Denied, "disabled: secret text")
	}
	return nil
}

func (*doorman) Mechanisms(c logon.Conn) []string {
	if !c.Secure {
		return nil
	}
	return []string{"PLAIN", "LOGIN", "SCRAM-SHA-256"}
}

func (d *doorman) SASL(_ context.Context, c logon.Conn, mech string, done func(directory.Account)) (sasl.Server, error) {
	d.mu.Lock()
	d.seen = append(d.seen, c)
	d.mu.Unlock()
	check := func(user, pass string) error {
		switch {
		case user == "alice@example.org" && pass == "sesame":
			done(directory.Account{ID: 1, Address: covey.Address{Local: "alice", Domain: "example.org"}})
			return nil
		case pass == "enough":
			return covey.Errorf(covey.Limit, "too many: secret text")
		case pass == "away":
			return covey.Errorf(covey.Unavailable, "no quorum: secret text")
		case pass == "broken":
			return errors.New("secret text")
		}
		return covey.Errorf(covey.Denied, "user %s: secret text", user)
	}
	switch mech {
	case "PLAIN":
		return sasl.NewPlainServer(func(identity, user, pass string) error {
			if identity != "" && identity != user {
				return covey.Errorf(covey.Denied, "identity")
			}
			return check(user, pass)
		}), nil
	case "LOGIN":
		return &twoQuestions{check: check}, nil
	}
	return &longChallenge{check: check}, nil
}

// twoQuestions is LOGIN.
type twoQuestions struct {
	asked []string
	check func(user, pass string) error
}

func (l *twoQuestions) Next(response []byte) ([]byte, bool, error) {
	if response != nil {
		l.asked = append(l.asked, string(response))
	}
	switch len(l.asked) {
	case 0:
		return []byte("Username:"), false, nil
	case 1:
		return []byte("Password:"), false, nil
	}
	return nil, true, l.check(l.asked[0], l.asked[1])
}

// longChallenge stands for SCRAM: three steps, the last with an empty response.
type longChallenge struct {
	step  int
	check func(user, pass string) error
}

func (l *longChallenge) Next(response []byte) ([]byte, bool, error) {
	switch l.step++; l.step {
	case 1:
		return []byte(strings.Repeat("r", 900)), false, nil
	case 2:
		user, pass, _ := strings.Cut(string(response), " ")
		if err := l.check(user, pass); err != nil {
			return nil, false, err
		}
		return []byte("v=proof"), false, nil
	}
	return nil, true, nil
}

var testCert = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mx.example.org"}, DNSNames: []string{"mx.example.org"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})
