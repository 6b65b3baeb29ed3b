package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/covey-mail/covey/bench"
	"github.com/covey-mail/covey/node/admin"
)

var dayRow = row{
	name: "day",
	what: "as many messages deleted as delivered, compaction running: rate over intake alone, disk over live bytes",
	run:  runDay,
}

// A dayTest is a day's life in small. Every account gets and deletes equally much,
// the oldest first; but three in four keep few messages and one keeps many, so that
// of what came at one time a part goes soon and a part stays.
type dayTest struct {
	*lab
	node     *server
	accounts int
	lasts    time.Duration // of warming up, and of measuring

	undeleted chan struct{} // a token for each message delivered and not deleted since
	delivered atomic.Int64
	seed      uint64 // of the last load
}

// What an account keeps is enough for two sessions that come early.
const (
	dayKept     = 40 // messages that an account keeps
	dayHoarded  = 96 // that one in dayHoarders keeps
	dayHoarders = 4

	dayReaders = 16   // POP3 sessions at a time
	dayDeleted = 16   // messages that one deletes
	daySlack   = 1024 // messages that deliveries may be ahead of deletions
)

func runDay(ctx context.Context, l *lab) ([]figure, error) {
	t := &dayTest{lab: l, accounts: l.count(3200, 64), lasts: l.lasting(time.Minute, time.Second), undeleted: make(chan struct{}, daySlack)}
	var err error
	if t.node, err = l.covey(ctx, makeAccounts("user", t.accounts)); err != nil {
		return nil, err
	}
	if err := t.fill(ctx); err != nil {
		return nil, err
	}
	alone, deletion, err := t.apart(ctx)
	if err != nil {
		return nil, err
	}
	m, err := t.live(ctx, t.discarding())
	if err != nil {
		return nil, err
	}
	read, err := t.live(ctx, t.reading())
	if err != nil {
		return nil, err
	}
	m.disk, m.live, m.samples = max(m.disk, read.disk), min(m.live, read.live), m.samples+read.samples
	live := figure{Name: "live at the least", Value: m.live / (1 << 20), Unit: "MiB"}
	if !l.short {
		live.Goal = 1024
	}
	return []figure{
		{Name: "deleting beside it, over intake alone", Value: m.rate / alone, Goal: 0.6, Note: fmt.Sprintf("over %v after as long of warming up", t.lasts)},
		{Name: "disk over live bytes", Value: m.disk, Goal: 2, Most: true, Note: fmt.Sprintf("the worst of %d samples of the whole data folder", m.samples)},
		live,
		{Name: "intake alone", Value: alone, Unit: "/s"},
		{Name: "deletion alone", Value: deletion, Unit: "/s", Note: fmt.Sprintf("POP3: log-in, STAT, %d × DELE, QUIT", dayDeleted)},
		{Name: "intake, as much deleted", Value: m.rate, Unit: "/s"},
		{Name: "intake, as much read and deleted", Value: read.rate, Unit: "/s", Note: "each with RETR before DELE"},
		{Name: "copied by compaction", Value: m.moved / (1 << 20), Unit: "MiB", Note: fmt.Sprintf("while measured; %.0f segments removed", m.removed)},
	}, nil
}

// fill gives each account what it keeps, and logs each in once: what a node does
// only at a first log-in is not measured.
func (t *dayTest) fill(ctx context.Context) error {
	for _, part := range []struct{ accounts, each int }{{t.accounts, dayKept}, {t.accounts / dayHoarders, dayHoarded - dayKept}} {
		cfg := t.intake(t.node, part.accounts)
		cfg.Count = int64(part.accounts * part.each)
		if _, err := t.load(ctx, cfg); err != nil {
			return err
		}
	}
	cfg := t.discarding()
	cfg.Count, cfg.Discard = int64(t.accounts), 0
	_, err := t.load(ctx, cfg)
	return err
}

// apart measures intake alone, and deletion alone by deleting about as much again:
// of every account equally much.
func (t *dayTest) apart(ctx context.Context) (intake, deletion float64, err error) {
	cfg := t.intake(t.node, t.accounts)
	cfg.Seed, cfg.Duration = t.nextSeed(), t.lasts
	res, err := t.load(ctx, cfg)
	if err != nil {
		return 0, 0, err
	}
	intake = res.Rate
	rounds := max(res.Done/int64(t.accounts*dayDeleted), 1)
	cfg = t.discarding()
	cfg.Seed, cfg.Count = t.nextSeed(), rounds*int64(t.accounts)
	if res, err = t.load(ctx, cfg); err != nil {
		return 0, 0, err
	}
	return intake, dayDeleted * res.Rate, nil
}

// discarding is the load of those who delete, as they do who have read elsewhere.
func (t *dayTest) discarding() bench.Config {
	return bench.Config{
		Protocol: bench.POP3, Addr: t.node.addr["pop3"], Conns: dayReaders, Retrieve: -1, Discard: dayDeleted,
		Users: t.accounts, UserPattern: "user%05d@" + domain,
	}
}

// reading is the load of those who also read what they delete.
func (t *dayTest) reading() bench.Config {
	cfg := t.discarding()
	cfg.Retrieve, cfg.Delete, cfg.Discard = dayDeleted, true, 0
	return cfg
}

// live delivers and deletes as much, and watches the second half of it.
func (t *dayTest) live(ctx context.Context, deletion bench.Config) (m dayMeasure, err error) {
	delivery := t.intake(t.node, t.accounts)
	delivery.Pace, deletion.Pace = t.mayDeliver, t.mayDelete
	for _, cfg := range []*bench.Config{&delivery, &deletion} {
		cfg.Seed, cfg.Duration = t.nextSeed(), 2*t.lasts
	}
	err = together(
		func() error { _, err := t.load(ctx, delivery); return err },
		func() error { _, err := t.load(ctx, deletion); return err },
		func() (err error) { m, err = t.watch(ctx); return err },
	)
	return m, err
}

// nextSeed returns another seed for each load, so that no two send the same.
func (t *dayTest) nextSeed() uint64 {
	t.seed++
	return t.seed
}

// mayDeliver waits until one more message may be delivered.
func (t *dayTest) mayDeliver(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case t.undeleted <- struct{}{}:
		t.delivered.Add(1)
		return nil
	}
}

// mayDelete waits until there are as many as a session deletes.
func (t *dayTest) mayDelete(ctx context.Context) error {
	for range dayDeleted {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.undeleted:
		}
	}
	return nil
}

// A dayMeasure is what was seen after warming up.
type dayMeasure struct {
	rate    float64 // messages delivered a second
	disk    float64 // bytes of the data folder over live ones, at the worst
	live    float64 // live bytes, at the least
	samples int
	moved   float64 // bytes that compaction copied
	removed float64 // segments that it removed
}

// watch waits until the node is warm and then takes a sample every second.
func (t *dayTest) watch(ctx context.Context) (m dayMeasure, err error) {
	if err := pause(ctx, t.lasts); err != nil {
		return m, err
	}
	node := admin.NewClient(t.node.dir) // a process for each sample would cost what is measured
	defer node.Close()
	began, before := time.Now(), t.delivered.Load()
	first, err := scrape(ctx, t.node.addr["metrics"])
	if err != nil {
		return m, err
	}
	for every := min(time.Second, t.lasts/4); time.Since(began)+every <= t.lasts; {
		if err := pause(ctx, every); err != nil {
			return m, err
		}
		if err := t.sample(ctx, node, &m); err != nil {
			return m, err
		}
	}
	m.rate = float64(t.delivered.Load()-before) / time.Since(began).Seconds()
	last, err := scrape(ctx, t.node.addr["metrics"])
	m.moved = last["covey_compact_moved_bytes_total"] - first["covey_compact_moved_bytes_total"]
	m.removed = last["covey_compact_removed_segments_total"] - first["covey_compact_removed_segments_total"]
	return m, err
}

// sample looks at the disk.
func (t *dayTest) sample(ctx context.Context, c *admin.Client, m *dayMeasure) error {
	status, err := admin.Call[admin.Status](ctx, c, admin.NodeStatus, admin.Empty{})
	if err != nil {
		return err
	}
	live := 0.0
	for _, shard := range status.Shards {
		live += float64(shard.LiveData)
	}
	used, err := diskUsed(t.node.dir)
	if err != nil {
		return err
	}
	m.disk = max(m.disk, used/live)
	if m.samples == 0 || live < m.live {
		m.live = live
	}
	m.samples++
	return nil
}

// diskUsed returns the bytes that the files below dir take, as du counts them.
func diskUsed(dir string) (sum float64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		var info fs.FileInfo
		if err == nil {
			info, err = d.Info()
		}
		if errors.Is(err, fs.ErrNotExist) { // a segment that has gone meanwhile
			return nil
		}
		if err == nil {
			sum += float64(info.Sys().(*syscall.Stat_t).Blocks) * 512
		}
		return err
	})
	return sum, err
}

// scrape reads the metrics, those with labels under their name with these.
func scrape(ctx context.Context, addr string) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err != nil {
		return nil, err
	}
	values := make(map[string]float64)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			values[name] = v
		}
	}
	return values, nil
}

// pause waits, unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
