package node

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/logon"
)

// tellPause is the least time between two messages of news: what happens
// meanwhile travels together.
const tellPause = 50 * time.Millisecond

// guesses tells the other nodes of tries to log in here, so that they count
// together. News that finds no room, or a link that is broken, is lost: then
// somebody may guess a few times more.
type guesses struct {
	untold prometheus.Counter

	mu   sync.Mutex
	news []logon.News // at most logon.MaxNews
	wake chan struct{}
}

func newGuesses() *guesses {
	return &guesses{
		wake: make(chan struct{}, 1),
		untold: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "covey_logon_untold_total", Help: "Tries to log in that other nodes were not told of, because there were too many.",
		}),
	}
}

// put is logon.Config.Tell.
func (g *guesses) put(n logon.News) {
	g.mu.Lock()
	full := len(g.news) >= logon.MaxNews
	if !full {
		g.news = append(g.news, n)
	}
	g.mu.Unlock()
	if full {
		g.untold.Inc()
		return
	}
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

func (g *guesses) take() []logon.News {
	g.mu.Lock()
	defer g.mu.Unlock()
	news := g.news
	g.news = nil
	return news
}

// tellGuesses sends what guesses gathers, until ctx ends.
func (n *Node) tellGuesses(ctx context.Context) {
	pause := time.NewTicker(tellPause)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.guesses.wake:
		}
		if news := n.guesses.take(); len(news) > 0 {
			message := logon.AppendNews(nil, news)
			for _, m := range n.directory.Nodes() {
				if m.ID != n.folder.id {
					n.links.Post(m.ID, kindLogon, message)
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
	}
}

// hearGuesses takes in what another node tells. The peer has proved who it is:
// what makes no sense comes from another version.
func (n *Node) hearGuesses(from covey.NodeID, message []byte) {
	news, err := logon.ParseNews(message)
	if err != nil {
		n.log.Debug("news of log-ins make no sense", "from", from.String(), "err", err)
		return
	}
	n.logon.Hear(news)
}

// startLogon makes the service that log-ins go through.
func (n *Node) startLogon() (err error) {
	n.guesses = newGuesses()
	cfg := logon.Config{Directory: n.directory, Logger: n.cfg.Logger, SaltKey: n.saltKey}
	if n.links.Net != nil {
		cfg.Tell = n.guesses.put
	}
	if n.logon, err = logon.New(cfg); err != nil {
		return err
	}
	n.metrics.MustRegister(n.guesses.untold)
	if n.links.Net != nil {
		n.links.HandlePost(kindLogon, n.hearGuesses)
	}
	return nil
}
