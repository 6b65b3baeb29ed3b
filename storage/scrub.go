package storage

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage/seglog"
)

// How fast bodies are read, in bytes a second, whatever there is of them: a disk
// that serves mail does not notice, and a small node is done within the time.
const (
	scrubSlowest = 256 << 10
	scrubFastest = 16 << 20
)

const (
	// repairTime bounds the repair of one body.
	repairTime = 30 * time.Second

	// maxRepairs bounds how many bodies are repaired at a time for readers, and
	// maxSuspects how many wait for the scrubber. Those beyond are met again.
	maxRepairs  = 16
	maxSuspects = 1024

	// tellDamage is how many damaged bodies of a pass the log tells of one by one.
	tellDamage = 100
)

// A Scrubber keeps the bodies on a node whole. It reads all of them slowly, again
// and again, since what nobody reads for a year is damaged for a year; and it
// repairs what it finds, or is told of, by what other replicas have. Pending
// chunks are looked at once a message has taken them.
type Scrubber struct {
	cfg      ScrubberConfig
	metrics  *ScrubberMetrics
	suspects chan suspect
	told     int // damaged bodies of this pass

	mu   sync.Mutex
	busy map[suspect]chan struct{} // being repaired; closed when that ends
}

// A suspect is a body that is said to be damaged.
type suspect struct {
	shard covey.ShardID
	body  covey.BodyID
}

// A ScrubberConfig says what to scrub. Log, Shards and Fetch are required.
type ScrubberConfig struct {
	Log *seglog.Log

	// Shards returns those whose bodies are in Log. The map is the Scrubber's.
	Shards func() map[covey.ShardID]State

	// Fetch returns a part of a shard's body as another replica has it. It is
	// asked for one part at a time of each body, by any number of goroutines.
	Fetch func(context.Context, covey.ShardID, Part) ([]byte, error)

	// Every is the time in which all bodies are read once: longer if that took
	// more than 16 MiB a second, shorter if less than 256 KiB. 0: a week.
	Every time.Duration

	Metrics *ScrubberMetrics // nil: none
	Logger  *slog.Logger     // nil: silent
}

// NewScrubber returns a Scrubber. It does no I/O.
func NewScrubber(cfg ScrubberConfig) (*Scrubber, error) {
	if cfg.Log == nil || cfg.Shards == nil || cfg.Fetch == nil {
		return nil, covey.Errorf(covey.Invalid, "scrubber: a log, its shards and other replicas are required")
	}
	if cfg.Every <= 0 {
		cfg.Every = 7 * 24 * time.Hour
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewScrubberMetrics()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Logger = cfg.Logger.With("component", "scrubber")
	return &Scrubber{
		cfg: cfg, metrics: cfg.Metrics, suspects: make(chan suspect, maxSuspects), busy: map[suspect]chan struct{}{},
	}, nil
}

// Run scrubs until ctx ends. It may run beside everything else but itself.
func (s *Scrubber) Run(ctx context.Context) {
	for ctx.Err() == nil {
		next := time.Now().Add(s.cfg.Every)
		s.pass(ctx)
		s.wait(ctx, time.Until(next))
	}
}

// Suspect has Run look at a body that somebody found damaged. It does not block,
// and forgets the body if too many wait: it will be met again.
func (s *Scrubber) Suspect(shard covey.ShardID, body covey.BodyID) {
	select {
	case s.suspects <- suspect{shard, body}:
	default:
	}
}

// Repair repairs a body that its reader found damaged. If somebody else does that
// already, Repair waits for it and returns nil: the reader will see. covey.Limit:
// too many are being repaired. Otherwise the errors are those of Repair.Body. Any
// number of goroutines may call it, whether Run runs or not.
func (s *Scrubber) Repair(ctx context.Context, shard covey.ShardID, body covey.BodyID) error {
	p := suspect{shard, body}
	s.mu.Lock()
	other, busy := s.busy[p]
	if !busy {
		if len(s.busy) >= maxRepairs {
			s.mu.Unlock()
			return covey.Errorf(covey.Limit, "repair body %d of shard %d: %d others are being repaired", body, shard, maxRepairs)
		}
		s.busy[p] = make(chan struct{})
	}
	s.mu.Unlock()
	if !busy {
		return s.repair(ctx, p)
	}
	select {
	case <-other:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// repair repairs a body that is in busy, and takes it out.
func (s *Scrubber) repair(ctx context.Context, p suspect) error {
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		close(s.busy[p])
		delete(s.busy, p)
	}()
	state, ok := s.cfg.Shards()[p.shard]
	if !ok {
		return covey.Errorf(covey.NotFound, "repair body %d: shard %d is not here", p.body, p.shard)
	}
	ctx, cancel := context.WithTimeout(ctx, repairTime)
	defer cancel()
	r := Repair{State: state, Log: s.cfg.Log, Fetch: func(ctx context.Context, part Part) ([]byte, error) {
		return s.cfg.Fetch(ctx, p.shard, part)
	}}
	n, err := r.Body(ctx, p.body)
	switch {
	case err == nil && n > 0:
		s.metrics.Repaired.Inc()
		s.cfg.Logger.Warn("a damaged body was repaired", "shard", uint32(p.shard), "body", uint64(p.body), "parts", n)
	case err != nil && !errors.Is(err, covey.NotFound):
		s.metrics.Failed.Inc()
	}
	return err
}

// pass reads every body once.
func (s *Scrubber) pass(ctx context.Context) {
	s.told = 0
	shards := s.cfg.Shards()
	var size int64
	for id, state := range shards {
		live, err := state.Live()
		if err != nil {
			delete(shards, id) // it has gone, or it says elsewhere what is wrong
			continue
		}
		for _, u := range live {
			size += u.Bytes
		}
	}
	at := pace{s: s, rate: min(max(size/max(int64(s.cfg.Every/time.Second), 1), scrubSlowest), scrubFastest)}
	// A node that is restarted every day gets round to all of them at last.
	ids := slices.Sorted(maps.Keys(shards))
	rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	for _, id := range ids {
		err := s.scrub(ctx, id, shards[id], &at)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !errors.Is(err, covey.Unavailable) {
			s.cfg.Logger.Warn("a shard could not be scrubbed", "shard", uint32(id), "err", err)
		}
	}
	s.metrics.Passes.Inc()
	if s.told > tellDamage {
		s.cfg.Logger.Error("many bodies were damaged", "bodies", s.told, "of_which_told", tellDamage)
	}
}

// scrub reads the bodies of one shard.
func (s *Scrubber) scrub(ctx context.Context, id covey.ShardID, state State, at *pace) error {
	live, err := state.Live()
	if err != nil {
		return err
	}
	buf := make([]byte, ChunkSize)
	for _, segment := range slices.Sorted(maps.Keys(live)) {
		err := eachResident(state, segment, func(r Resident) error {
			var bad violations
			n := r.verify(state, s.cfg.Log, segment, buf, &bad)
			s.metrics.Read.Add(float64(n))
			if r.Body > 0 && len(bad) > 0 {
				s.found(ctx, suspect{id, r.Body}, bad[0])
			}
			return at.took(ctx, n)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// found deals with a body that is damaged.
func (s *Scrubber) found(ctx context.Context, p suspect, why error) {
	err := s.Repair(ctx, p.shard, p.body)
	if err == nil || ctx.Err() != nil || errors.Is(err, covey.NotFound) { // repaired, or deleted meanwhile
		return
	}
	if s.told++; s.told <= tellDamage {
		s.cfg.Logger.Error("a body is damaged, and could not be repaired", "shard", uint32(p.shard), "body", uint64(p.body), "damage", why, "err", err)
	}
}

// wait lets a time pass, and looks at suspects meanwhile.
func (s *Scrubber) wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case p := <-s.suspects:
			s.found(ctx, p, covey.Errorf(covey.Corrupt, "somebody met it"))
		}
	}
}

// A pace keeps a pass to its rate.
type pace struct {
	s    *Scrubber
	rate int64 // bytes a second
	owed time.Duration
}

// took waits as long as reading n bytes may take, in steps of a tenth of a second
// or more. It returns ctx's error.
func (p *pace) took(ctx context.Context, n int64) error {
	const step = 100 * time.Millisecond
	p.owed += time.Duration(n) * time.Second / time.Duration(p.rate)
	if p.owed >= step {
		p.s.wait(ctx, p.owed)
		p.owed = 0
	}
	return ctx.Err()
}
