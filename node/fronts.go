package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/imapd"
	"github.com/covey-mail/covey/internal/serve"
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
	smtp  *smtpd.Server
	imap  *imapd.Server
	pop3  *pop3d.Server
	http  []*http.Server // metrics
	admin *http.Server

	serving   sync.WaitGroup // the Serve calls, but for admin's
	adminDone sync.WaitGroup // admin's
	listening []Listening
}

// startFronts opens every listener before any of them serves, so that a port
// that is taken is found out while nothing was promised.
func (n *Node) startFronts(context.Context) error {
	if err := n.makeServers(); err != nil {
		return err
	}
	var serves []func()
	for _, s := range n.cfg.Listen.services() {
		for _, addr := range s.addrs {
			l, err := listen(addr)
			if err != nil {
				return fmt.Errorf("[listen] %s: %w%s", s.name, err, listenHint(err))
			}
			n.fronts.listening = append(n.fronts.listening, Listening{s.name, address(l)})
			serves = append(serves, n.server(s.name, l))
		}
	}
	for _, serve := range serves {
		n.fronts.serving.Go(serve)
	}
	return nil
}

func (n *Node) makeServers() (err error) {
	lim := n.cfg.Limits
	loopback := lim.ClearTextLogin == "loopback"
	trusted, err := parsePrefixes(lim.LMTPPeers)
	if err != nil {
		return err
	}
	sm, im, pm, conns := smtpd.NewMetrics(), imapd.NewMetrics(), pop3d.NewMetrics(), serve.NewMetrics()
	per := make(map[smtpd.Kind]serve.Config)
	for _, k := range []smtpd.Kind{smtpd.MX, smtpd.Submission, smtpd.Submissions, smtpd.LMTP} {
		per[k] = serve.Config{Conns: lim.Connections, PerAddr: lim.PerAddress}
	}
	n.fronts.smtp, err = smtpd.New(smtpd.Config{
		Hostname: n.cfg.Node.Hostname, TLS: n.certs.config(), MaxMessageBytes: lim.MessageSize, MaxRecipients: lim.Recipients,
		ClearTextAuth: loopback, TrustedLMTP: trusted, Listeners: per, ServeMetrics: conns, Logger: n.cfg.Logger, Metrics: sm,
	}, smtpd.Services{Delivery: n.delivery, Directory: n.directory, Logon: n.logon})
	if err != nil {
		return err
	}
	clear := imapd.ClearTextLoopback
	if !loopback {
		clear = imapd.ClearTextNever
	}
	n.fronts.imap, err = imapd.New(imapd.Config{
		Logons: n.logon, Mailboxes: n.mailboxes, Hostname: n.cfg.Node.Hostname, TLS: n.certs.config(), ClearText: clear,
		AppendLimit: lim.MessageSize, PerUser: lim.SessionsPerUser, Logger: n.cfg.Logger, Metrics: im,
	})
	if err != nil {
		return err
	}
	n.fronts.pop3, err = pop3d.New(pop3d.Config{
		Hostname: n.cfg.Node.Hostname, Logon: n.logon, Mail: n.mailboxes, TLS: n.certs.config(), Logger: n.cfg.Logger, Metrics: pm,
	})
	for _, m := range [][]prometheus.Collector{sm.Collectors(), im.Collectors(), pm.Collectors(), conns.Collectors()} {
		n.metrics.MustRegister(m...)
	}
	n.connMetrics = conns
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

// server returns the function that serves a listener until it is shut down.
func (n *Node) server(name string, l net.Listener) func() {
	run := func(err error) {
		if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
			n.log.Error("listener ended", "service", name, "address", address(l), "err", err)
		}
	}
	kinds := map[string]smtpd.Kind{
		"smtp": smtpd.MX, "submission": smtpd.Submission, "submissions": smtpd.Submissions, "lmtp": smtpd.LMTP,
	}
	if k, ok := kinds[name]; ok {
		return func() { run(n.fronts.smtp.Serve(k, l)) }
	}
	if name == "metrics" {
		h := &http.Server{
			Handler:           health{reg: n.metrics, ready: n.ready.check, debug: n.cfg.Node.Debug}.handler(),
			ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10,
		}
		n.fronts.http = append(n.fronts.http, h)
		return func() { run(h.Serve(l)) }
	}
	return n.mailServer(name, l, run)
}

// mailServer is server for the services that read mail.
func (n *Node) mailServer(name string, l net.Listener, run func(error)) func() {
	cfg := serve.Config{
		Name: name, Conns: n.cfg.Limits.Connections, PerAddr: n.cfg.Limits.PerAddress, Logger: n.cfg.Logger, Metrics: n.connMetrics,
	}
	implicit := strings.HasSuffix(name, "s")
	if !implicit {
		cfg.Refusal = pop3d.Refusal()
		if name == "imap" {
			cfg.Refusal = []byte("* BYE [UNAVAILABLE] too many connections\r\n")
		}
	}
	var wrapped net.Listener = serve.Wrap(l, cfg)
	if implicit {
		wrapped = serve.TLS(wrapped.(*serve.Listener), n.certs.config())
	}
	if strings.HasPrefix(name, "imap") {
		return func() { run(n.fronts.imap.Serve(wrapped)) }
	}
	return func() { run(n.fronts.pop3.Serve(wrapped)) }
}

// listen opens a TCP listener, or a Unix socket in place of one that a killed
// process left behind.
func listen(addr string) (net.Listener, error) {
	path, ok := strings.CutPrefix(addr, "unix:")
	if !ok {
		return net.Listen("tcp", addr)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", path)
}

func listenHint(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return ": another program has that port; stop it, choose another address in [listen], or use --port-offset"
	case errors.Is(err, os.ErrPermission):
		return ": ports below 1024 need root or CAP_NET_BIND_SERVICE; or use --port-offset"
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
	errs := make(chan error, 3)
	if f.smtp != nil {
		wg.Go(func() { errs <- f.smtp.Shutdown(ctx) })
	}
	if f.imap != nil {
		wg.Go(func() { errs <- f.imap.Shutdown(ctx) })
	}
	if f.pop3 != nil {
		wg.Go(func() { errs <- f.pop3.Shutdown(ctx) })
	}
	wg.Wait()
	close(errs)
	for _, h := range f.http {
		_ = h.Close() // a scrape that is cut off comes again
	}
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

// closeAdmin ends the admin socket after the calls under way.
func (f *fronts) closeAdmin(ctx context.Context) error {
	if f.admin == nil {
		return nil
	}
	defer f.adminDone.Wait()
	return f.admin.Shutdown(ctx)
}
