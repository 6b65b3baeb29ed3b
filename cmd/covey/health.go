package main

import (
	"context"
	"fmt"

	"github.com/covey-mail/covey/node/admin"
)

type healthCmd struct{ dataFlags }

// Run fails unless the node is ready, for health checks of containers and units
// that have no HTTP client.
func (c *healthCmd) Run(ctx context.Context, io stdio) error {
	h, err := call[admin.Health](ctx, c.dataFlags, admin.NodeHealth, admin.Empty{})
	if err != nil {
		return err
	}
	if h.Reason != "" {
		return fmt.Errorf("not ready: %s", h.Reason)
	}
	if c.JSON {
		return io.json(h)
	}
	_, err = fmt.Fprintln(io.out, "ready")
	return err
}
