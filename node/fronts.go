package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/imapd"
	"github.com/covey-mail/covey/internal/serve"
	"github.com/covey-mail/covey/logon"
	"github.com/covey-mail/covey/node/admin"
	"github.com/covey-mail/covey/pop3d"
	"github.com/covey-mail/covey/smtpd"
)

// Listening is one listener of a node.
type Listening struct {
	Service string
	Address string // host:port or unix:/path
}

// fronts are all that listens. The zero value listens to nothing.
type fronts struct {
	smtp    *smtpd.Server
	imap    *imapd.Server
	pop3    *pop3d.Server
	metrics []*httpServer
	admin   *httpServer
	serving sync.WaitGroup // the mail servers' Serve calls

	mu        sync.Mutex // guards listening: the admin socket is there before the others
	listening []Listening
}

// startFronts opens every listener before any of them serves, so that a port
// that is taken is found out while nothing was promised.
func (n *Node) startFronts(context.Context) error {
	if err := n.makeServers(); err != nil {
		return err
	}
	n.serveSessions()
	open, err := n.openListeners()
	if err != nil {
		return err
	}
	var list []Listening
	for _, o := range open {
		list = append(list, Listening{o.service, address(o.l)})
		n.serve(o.service, o.l)
	}
	n.fronts.mu.Lock()
	defer n.fronts.mu.Unlock()
	n.fronts.listening = list
	return nil
}

// opened is a listener that nobody serves yet.
type opened struct {
	service string
	l       net.Listener
}

// openListeners opens all listeners or none.
func (n *Node) openListeners() ([]opened, error) {
	var open []opened
	for _, s := range n.cfg.Listen.services() {
		for _, addr := range s.addrs {
			l, err := listen(addr)
			if err == nil {
				open = append(open, opened{s.name, l})
				continue
			}
			err = fmt.Errorf("[listen] %s: %w%s", s.name, err, listenHint(err))
			for _, o := range open {
				err = errors.Join(err, o.l.Close())
			}
			return nil, err
		}
	}
	return open, nil
}

func (n *Node) makeServers() (err error) {
	lim := n.cfg.Limits
	if n.conns = n.cfg.connections(); n.conns < lim.Connections {
		n.log.Warn("fewer connections than configured: raise the limit of open files (ulimit -n, LimitNOFILE)",
			"configured", lim.Connections, "connections", n.conns, "files", n.cfg.Files)
	}
	clear := logon.ClearTextLoopback
	if lim.ClearTextLogin == "never" {
		clear = logon.ClearTextNever
	}
	trusted, err := parsePrefixes(lim.LMTPPeers)
	if err != nil {
		return err
	}
	sm, im, pm, conns := smtpd.NewMetrics(), imapd.NewMetrics(), pop3d.NewMetrics(), n.connMetrics
	per := make(map[smtpd.Kind]serve.Config)
	for _, k := range []smtpd.Kind{smtpd.MX, smtpd.Submission, smtpd.Submissions, smtpd.LMTP} {
		per[k] = serve.Config{Conns: n.conns, PerAddr: lim.PerAddress}
	}
	n.fronts.smtp, err = smtpd.New(smtpd.Config{
		Hostname: n.cfg.Node.Hostname, TLS: n.certs.config(), MaxMessageBytes: lim.MessageSize, MaxRecipients: lim.Recipients,
		ClearText: clear, TrustedLMTP: trusted, Listeners: per, ServeMetrics: conns, Logger: n.cfg.Logger, Metrics: sm,
	}, smtpd.Services{Delivery: n.delivery, Directory: n.directory, Logon: n.logon})
	if err != nil {
		return err
	}
	n.fronts.imap, err = imapd.New(imapd.Config{
		Logons: n.logon, Mailboxes: n.mailboxes, Homes: homes{n}, Hostname: n.cfg.Node.Hostname, TLS: n.certs.config(), ClearText: clear,
		AppendLimit: lim.MessageSize, PerUser: lim.SessionsPerUser, Logger: n.cfg.Logger, Metrics: im,
	})
	if err != nil {
		return err
	}
	n.fronts.pop3, err = pop3d.New(pop3d.Config{
		Hostname: n.cfg.Node.Hostname, Logon: n.logon, Mail: n.mailboxes, Homes: homes{n}, TLS: n.certs.config(), ClearText: clear, Logger: n.cfg.Logger, Metrics: pm,
	})
	for _, m := range [][]prometheus.Collector{sm.Collectors(), im.Collectors(), pm.Collectors(), conns.Collectors()} {
		n.metrics.MustRegister(m...)
	}
	return err
}

func parsePrefixes(list []string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, covey.Errorf(covey.Invalid, "[limits] lmtp_peers: %q: want a network such as 10.1.2.0/24", s)
		}
		all = append(all, p)
	}
	return all, nil
}

// serve starts to serve a listener; shutdown ends it.
func (n *Node) serve(name string, l net.Listener) {
	kinds := map[string]smtpd.Kind{
		"smtp": smtpd.MX, "submission": smtpd.Submission, "submissions": smtpd.Submissions, "lmtp": smtpd.LMTP,
	}
	var run func() error
	kind, isSMTP := kinds[name]
	switch {
	case name == "metrics":
		h := health{reg: n.metrics, ready: n.readyErr, debug: n.cfg.Node.Debug,
			status: func(ctx context.Context) (any, error) { return n.status(ctx, admin.Empty{}) }}
		n.fronts.metrics = append(n.fronts.metrics, serveHTTP(l, h.handler(), n.log))
		return
	case isSMTP:
		run = func() error { return n.fronts.smtp.Serve(kind, l) }
	case strings.HasPrefix(name, "imap"):
		run = func() error { return n.fronts.imap.Serve(n.wrap(name, l)) }
	default:
		run = func() error { return n.fronts.pop3.Serve(n.wrap(name, l)) }
	}
	n.fronts.serving.Go(func() {
		if err := run(); err != nil && !errors.Is(err, net.ErrClosed) {
			n.log.Error("listener ended", "service", name, "address", address(l), "err", err)
		}
	})
}

// wrap puts limits, and TLS where it comes first, on a listener of a service
// that reads mail. smtpd does that itself.
func (n *Node) wrap(name string, l net.Listener) net.Listener {
	cfg := serve.Config{
		Name: name, Conns: n.conns, PerAddr: n.cfg.Limits.PerAddress, Logger: n.cfg.Logger, Metrics: n.connMetrics,
	}
	switch name {
	case "imap":
		cfg.Refusal = []byte("* BYE [UNAVAILABLE] too many connections\r\n")
	case "pop3":
		cfg.Refusal = pop3d.Refusal()
	default: // a line of text is no answer to a ClientHello
		return serve.TLS(serve.Wrap(l, cfg), n.certs.config())
	}
	return serve.Wrap(l, cfg)
}

// listen opens a TCP listener, or a Unix socket in place of one that a killed
// process left behind. Any other file of that name stays, and so does a socket
// that somebody answers on.
func listen(addr string) (net.Listener, error) {
	path, ok := strings.CutPrefix(addr, "unix:")
	if !ok {
		return net.Listen("tcp", addr)
	}
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() == os.ModeSocket {
		c, err := net.Dial("unix", path)
		if err == nil {
			return nil, errors.Join(fmt.Errorf("listen unix %s: %w", path, syscall.EADDRINUSE), c.Close())
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			if err := os.Remove(path); err != nil {
				return nil, err
			}
		}
	}
	return net.Listen("unix", path)
}

func listenHint(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return ": another program has that address; stop it, choose another address in [listen], or use --port-offset"
	case errors.Is(err, os.ErrPermission):
		return ": ports below 1024 need root or CAP_NET_BIND_SERVICE; choose other addresses in [listen], or use --port-offset"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return ": this host has no such address; mend it in [listen]"
	case errors.Is(err, os.ErrNotExist):
		return ": make the folder of the socket first, or choose another in [listen]"
	case errors.Is(err, syscall.EINVAL):
		return ": the path of a Unix socket has at most 107 octets; choose a shorter one in [listen]"
	}
	return ""
}

func address(l net.Listener) string {
	if l.Addr().Network() == "unix" {
		return "unix:" + l.Addr().String()
	}
	return l.Addr().String()
}

// shutdown lets sessions finish what they are at until ctx ends, then ends them.
func (f *fronts) shutdown(ctx context.Context) error {
	var wg sync.WaitGroup
	errs := make(chan error, 3+len(f.metrics))
	if f.smtp != nil {
		wg.Go(func() { errs <- f.smtp.Shutdown(ctx) })
	}
	if f.imap != nil {
		wg.Go(func() { errs <- f.imap.Shutdown(ctx) })
	}
	if f.pop3 != nil {
		wg.Go(func() { errs <- f.pop3.Shutdown(ctx) })
	}
	for _, h := range f.metrics {
		wg.Go(func() { errs <- h.stop() })
	}
	wg.Wait()
	close(errs)
	f.serving.Wait()
	var all error
	for err := range errs {
		// Sessions that outlast the grace period are ended: that is no fault.
		if !errors.Is(err, context.DeadlineExceeded) {
			all = errors.Join(all, err)
		}
	}
	return all
}

// end ends the sessions of a shard that another node leads now.
func (f *fronts) end(shard covey.ShardID) {
	if f.imap != nil {
		f.imap.End(shard)
	}
	if f.pop3 != nil {
		f.pop3.End(shard)
	}
}
