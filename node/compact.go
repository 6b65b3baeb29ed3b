package node

import (
	"context"
	"time"

	"github.com/covey-mail/covey/storage"
)

// startCompactor runs compaction until ctx ends.
func (n *Node) startCompactor(ctx context.Context) error {
	tick := time.NewTicker(time.Duration(n.cfg.Limits.CompactEvery))
	m := storage.NewCompactorMetrics()
	c, err := storage.NewCompactor(storage.CompactorConfig{
		Log: n.seglog, Shards: n.states.placers, Damaged: n.scrubber.Suspect, Checkpoint: n.host.Checkpoint,
		Tick: tick.C, Metrics: m, Logger: n.cfg.Logger,
	})
	if err != nil {
		return err
	}
	n.metrics.MustRegister(m.Collectors()...)
	n.background.Go(func() {
		defer tick.Stop()
		if err := c.Run(ctx); err != nil {
			n.log.Error("compaction ended", "err", err)
		}
	})
	return nil
}
