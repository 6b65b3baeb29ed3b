package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/covey-mail/covey/node/admin"
)

type queueCmd struct {
	List queueListCmd `cmd:"" help:"Show what waits, of all shards."`
}

type queueListCmd struct {
	dataFlags
	Limit int `help:"Show at most so many deliveries, those that wait longest." default:"1000"`
}

// Run prints what waits.
func (c *queueListCmd) Run(ctx context.Context, io stdio) error {
	a, err := call[admin.QueueAnswer](ctx, c.dataFlags, admin.QueueList, admin.QueueRequest{Limit: c.Limit})
	if err != nil {
		return err
	}
	if c.JSON {
		return io.json(a)
	}
	if err := io.table("delivery shard since tries from to error", queueRows(a.Deliveries)); err != nil {
		return err
	}
	if more := a.Total - len(a.Deliveries); more > 0 {
		fmt.Fprintf(io.out, "and %d more\n", more)
	}
	if len(a.Silent) > 0 {
		fmt.Fprintf(io.err, "covey: nothing is known of the queues of shards %v: their leaders do not answer\n", a.Silent)
	}
	return nil
}

func queueRows(list []admin.Queued) [][]string {
	const most = 3 // recipients shown
	rows := make([][]string, len(list))
	for i, q := range list {
		var to []string
		for _, r := range q.Recipients[:min(len(q.Recipients), most)] {
			to = append(to, fmt.Sprintf("%s (shard %d)", r.Address, r.Shard))
		}
		if q.Left > len(to) {
			to = append(to, fmt.Sprintf("and %d more", q.Left-len(to)))
		}
		reason := q.Error
		if reason == "" {
			reason = "-"
		}
		rows[i] = []string{
			q.Delivery, strconv.FormatUint(uint64(q.Shard), 10), q.Since.Local().Format(time.DateTime), strconv.Itoa(q.Tries),
			"<" + q.Sender + ">", strings.Join(to, ", "), reason,
		}
	}
	return rows
}
