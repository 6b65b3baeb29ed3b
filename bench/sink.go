package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"strconv"
	"sync"
	"time"
)

// A sink is the least a server can do: it takes every message and keeps none, and
// gives every session the same mailbox. The generator cannot be faster than
// against it.
type sink struct {
	cfg      Config
	listener net.Listener
	tls      *tls.Config
	envelope []byte // replies of IMAP and POP3, made once
	body     []byte

	mu      sync.Mutex // guards closed and conns
	closed  bool
	conns   map[net.Conn]struct{}
	serving sync.WaitGroup
}

// startSink listens on loopback for the protocol and kind of TLS of cfg. It must
// be closed.
func startSink(cfg Config) (*sink, error) {
	s := &sink{cfg: cfg, conns: make(map[net.Conn]struct{})}
	if cfg.TLS != None {
		cert, err := selfSigned()
		if err != nil {
			return nil, err
		}
		s.tls = &tls.Config{Certificates: []tls.Certificate{cert}}
	}
	s.canned()
	var err error
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("listen for the sink: %w", err)
	}
	s.serving.Go(s.accept)
	return s, nil
}

func (s *sink) addr() string { return s.listener.Addr().String() }

// close ends all connections and waits for them.
func (s *sink) close() {
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	_ = s.listener.Close()
	s.serving.Wait()
}

func (s *sink) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if !s.closed {
			s.conns[c] = struct{}{}
			s.serving.Go(func() { s.serve(c) })
		}
		s.mu.Unlock()
	}
}

func (s *sink) serve(c net.Conn) {
	defer func() {
		_ = c.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	d := &dialogue{net: c}
	if s.cfg.TLS == Implicit {
		d.net = tls.Server(c, s.tls)
	}
	d.use()
	switch s.cfg.Protocol {
	case POP3:
		s.pop3(d)
	case IMAP:
		s.imap(d)
	default:
		s.smtp(d)
	}
}

// A dialogue is one connection to a sink. Replies leave when no more commands
// are waiting, so that pipelined ones are answered in one write.
type dialogue struct {
	net  net.Conn
	r    *bufio.Reader
	w    *bufio.Writer
	line []byte
}

func (d *dialogue) use() {
	d.r, d.w = bufio.NewReaderSize(d.net, readBuffer), bufio.NewWriterSize(d.net, writeBuffer)
}

func (d *dialogue) reply(text string) { _, _ = d.w.WriteString(text) }

// next reads a command, whose first word is verb.
func (d *dialogue) next() (verb string, ok bool) {
	if d.r.Buffered() == 0 && d.w.Flush() != nil {
		return "", false
	}
	line, err := readLine(d.r)
	d.line = line
	word, _, _ := bytes.Cut(line, []byte(" "))
	return string(word), err == nil
}

func (d *dialogue) startTLS(s *sink, reply string) {
	d.reply(reply)
	_ = d.w.Flush()
	d.net = tls.Server(d.net, s.tls)
	d.use()
}

func (s *sink) smtp(d *dialogue) {
	d.reply("220 sink.invalid ready\r\n")
	for {
		verb, ok := d.next()
		if !ok {
			return
		}
		switch verb {
		case "EHLO", "LHLO":
			d.reply("250-sink.invalid\r\n250-PIPELINING\r\n250 8BITMIME\r\n")
		case "STARTTLS":
			d.startTLS(s, "220 go ahead\r\n")
		case "DATA":
			d.reply("354 go ahead\r\n")
			if d.w.Flush() != nil || !discardMessage(d.r) {
				return
			}
			d.reply("250 2.0.0 discarded\r\n")
		case "QUIT":
			d.reply("221 2.0.0 bye\r\n")
			_ = d.w.Flush()
			return
		default:
			d.reply("250 2.0.0 ok\r\n")
		}
	}
}

// discardMessage reads up to the line that holds but a dot.
func discardMessage(r *bufio.Reader) bool {
	for {
		line, err := readLine(r)
		if err != nil {
			return false
		}
		if len(line) == 1 && line[0] == '.' {
			return true
		}
	}
}

// canned makes the mailbox of all sessions: as many messages as they read.
func (s *sink) canned() {
	const envelope = `"Mon, 02 Jan 2006 15:04:05 +0000" "subject" (("Bench" NIL "bench" "example.net")) (("Bench" NIL "bench" "example.net")) ` +
		`(("Bench" NIL "bench" "example.net")) ((NIL NIL "user00001" "example.org")) NIL NIL NIL "<1@bench.invalid>"`
	var body bytes.Buffer
	c := newComposer(s.cfg, newTemplate(s.cfg.Seed), "sink", 0)
	_, _ = c.write(&body, 0, s.cfg.From) // into memory: no error
	s.body = body.Bytes()
	for i := range max(s.cfg.Envelopes, 0) {
		s.envelope = fmt.Appendf(s.envelope, "* %d FETCH (UID %d FLAGS (\\Recent) INTERNALDATE \"02-Jan-2006 15:04:05 +0000\" RFC822.SIZE %d ENVELOPE (%s))\r\n",
			i+1, i+1, len(s.body), envelope)
	}
}

// count is how many messages the mailbox has.
func (s *sink) count() string {
	return strconv.Itoa(max(s.cfg.Envelopes, max(s.cfg.Retrieve, 0)+s.cfg.Discard))
}

func (s *sink) pop3(d *dialogue) {
	d.reply("+OK ready\r\n")
	for {
		verb, ok := d.next()
		if !ok {
			return
		}
		switch verb {
		case "STLS":
			d.startTLS(s, "+OK go ahead\r\n")
		case "STAT":
			d.reply("+OK " + s.count() + " 1000\r\n")
		case "RETR":
			d.reply("+OK\r\n")
			_, _ = d.w.Write(s.body)
			d.reply(".\r\n")
		case "QUIT":
			d.reply("+OK bye\r\n")
			_ = d.w.Flush()
			return
		default:
			d.reply("+OK\r\n")
		}
	}
}

func (s *sink) imap(d *dialogue) {
	d.reply("* OK ready\r\n")
	for {
		tag, ok := d.next()
		if !ok {
			return
		}
		switch _, command, _ := bytes.Cut(d.line, []byte(" ")); {
		case bytes.HasPrefix(command, []byte("STARTTLS")):
			d.startTLS(s, tag+" OK go ahead\r\n")
			continue
		case bytes.HasPrefix(command, []byte("SELECT")):
			d.reply("* " + s.count() + " EXISTS\r\n* FLAGS (\\Seen)\r\n* OK [UIDVALIDITY 1] ok\r\n")
		case bytes.HasSuffix(command, []byte("ENVELOPE)")):
			_, _ = d.w.Write(s.envelope)
		case bytes.HasSuffix(command, []byte("BODY.PEEK[]")):
			d.reply("* 1 FETCH (BODY[] {" + strconv.Itoa(len(s.body)) + "}\r\n")
			_, _ = d.w.Write(s.body)
			d.reply(")\r\n")
		case bytes.HasPrefix(command, []byte("LOGOUT")):
			d.reply("* BYE bye\r\n" + tag + " OK done\r\n")
			_ = d.w.Flush()
			return
		}
		d.reply(tag + " OK done\r\n")
	}
}

// selfSigned makes a certificate for a sink.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a key for the sink: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		DNSNames: []string{"sink.invalid"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a certificate for the sink: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// measureCeiling runs the same load against a sink for cfg.Ceiling and returns
// the rate that was reached, in a closed loop whatever cfg says.
func measureCeiling(ctx context.Context, cfg Config) (float64, error) {
	s, err := startSink(cfg)
	if err != nil {
		return 0, err
	}
	defer s.close()
	cfg.Addr, cfg.Duration, cfg.Count = s.addr(), cfg.Ceiling, 0
	cfg.Rate, cfg.PID, cfg.Verify, cfg.Pace = 0, 0, "", nil
	cfg.Groups, cfg.Only, cfg.Timeline = nil, nil, nil
	cfg.Conns = min(cfg.Conns, ceilingConns)
	var res Result
	t := trial{cfg: cfg, phase: "ceiling", rec: newRecorder(nil, nil), open: factory(cfg, newRunID())}
	if err := t.measure(ctx, &res); err != nil {
		return 0, err
	}
	return res.Rate, nil
}

// ceilingConns is enough to keep any machine busy; an open loop allows for more
// so that arrivals need not wait.
const ceilingConns = 64
