package storage_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable/durabletest"
	"github.com/covey-mail/covey/storage"
	"github.com/covey-mail/covey/storage/seglog"
)

// damage flips a bit of what lies at e.
func (m *machine) damage(e seglog.Extent) {
	m.t.Helper()
	names, err := m.disk.ReadDir("/log")
	if err != nil {
		m.t.Fatal(err)
	}
	for _, f := range names {
		if strings.HasSuffix(f.Name(), fmt.Sprintf("%016x.log", e.Segment)) {
			m.disk.Flip("/log/"+f.Name(), int64(e.Offset)+5, 1)
		}
	}
}

// extents returns where a body of shard 1 lies.
func (m *machine) extents(id covey.BodyID) []seglog.Extent {
	m.t.Helper()
	list, err := m.states[1].Body(id)
	if err != nil {
		m.t.Fatal(err)
	}
	return list
}

// pair returns two machines with the same commands in shard 1, and the id of a
// body in three parts.
func pair(t *testing.T) (a, b *machine, id covey.BodyID) {
	t.Helper()
	for _, m := range []**machine{&a, &b} {
		*m = startMachine(t, durabletest.NewDisk(), t.TempDir())
		t.Cleanup((*m).close)
		(*m).fill()
		c := storage.Deliver{
			ID: covey.DeliveryID{Node: 7}, Time: noon, Recipients: []storage.Recipient{{Account: 1, Mailbox: "INBOX"}},
			Body: storage.Body{Upload: covey.DeliveryID{Node: 7}, Chunks: 3, Size: 3000},
		}
		for n := range c.Body.Chunks {
			(*m).propose(1, storage.Chunk{Upload: c.ID, N: n, Time: noon, Data: text(int(n), 1000)})
		}
		(*m).propose(1, c)
		id = covey.BodyID((*m).last[1])
		for n := range uint32(20) { // so that the segment is not the newest: Open would refuse it
			(*m).propose(1, storage.Chunk{Upload: covey.DeliveryID{Node: 8}, N: n, Time: noon, Data: text(int(n), 4000)})
		}
	}
	return a, b, id
}

// fetchFrom returns what brings parts of shard 1's bodies from another machine.
func fetchFrom(m *machine) func(context.Context, storage.Part) ([]byte, error) {
	return func(_ context.Context, p storage.Part) ([]byte, error) {
		return storage.ReadPart(m.states[1], m.log, p.Body, p.N)
	}
}

// damaged returns the bodies of shard 1 that a check finds.
func (m *machine) damaged() []covey.BodyID {
	var list []covey.BodyID
	for _, err := range storage.CheckBodies(m.t.Context(), m.states[1], m.log) {
		if bad := (*storage.BodyError)(nil); errors.As(err, &bad) {
			list = append(list, bad.Body)
		} else {
			m.t.Error(err)
		}
	}
	return list
}

// TestRepair replaces the damaged parts of bodies by those of a replica.
func TestRepair(t *testing.T) {
	a, b, id := pair(t)
	good := b.extents(id)
	b.damage(good[0])
	b.damage(good[2])
	if got := b.damaged(); len(got) != 2 || got[0] != id || got[1] != id {
		t.Fatalf("damaged are %v, want %d twice", got, id)
	}
	var asked []int
	repair := storage.Repair{State: b.states[1], Log: b.log, Fetch: func(_ context.Context, p storage.Part) ([]byte, error) {
		if p.Body != id || p.Length != 1000 || p.Sum != good[p.N].Sum {
			t.Errorf("%+v was asked for", p)
		}
		asked = append(asked, p.N)
		return storage.ReadPart(a.states[1], a.log, p.Body, p.N)
	}}
	if n, err := repair.Body(t.Context(), id); n != 2 || err != nil {
		t.Fatalf("%d parts were repaired, error %v", n, err)
	}
	if len(asked) != 2 || asked[0] != 0 || asked[1] != 2 {
		t.Errorf("parts %v were fetched", asked)
	}
	if now := b.extents(id); now[1] != good[1] || now[0] == good[0] || now[2] == good[2] {
		t.Errorf("the body lies at %v, was at %v", now, good)
	}
	b.verifyRepaired()
	if n, err := repair.Body(t.Context(), id); n != 0 || err != nil {
		t.Errorf("a second time: %d parts, error %v", n, err)
	}
	// It survives a checkpoint and a power cut.
	if err := b.checkpoint(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	dir := copyFiles(t, b.dir)
	disk := b.disk.Clone()
	disk.Crash(3)
	again := startMachine(t, disk, dir)
	again.verifyRepaired()
	again.close()
}

func (m *machine) verifyRepaired() {
	m.t.Helper()
	if got := m.damaged(); got != nil {
		m.t.Errorf("damaged are still %v", got)
	}
	m.sound()
}

func TestRepairRefuses(t *testing.T) {
	a, b, id := pair(t)
	b.damage(b.extents(id)[1])
	before := b.extents(id)
	broken := errors.New("no link")
	for _, tt := range []struct {
		name  string
		fetch func(context.Context, storage.Part) ([]byte, error)
		want  error
	}{
		{"other bytes", func(_ context.Context, p storage.Part) ([]byte, error) {
			return storage.ReadPart(a.states[1], a.log, p.Body, p.N-1)
		}, covey.Corrupt},
		{"too short", func(context.Context, storage.Part) ([]byte, error) { return nil, nil }, covey.Corrupt},
		{"none", func(context.Context, storage.Part) ([]byte, error) { return nil, broken }, broken},
		{"gone there", func(_ context.Context, p storage.Part) ([]byte, error) {
			return storage.ReadPart(a.states[1], a.log, 1<<40, p.N)
		}, covey.Unavailable},
	} {
		r := storage.Repair{State: b.states[1], Log: b.log, Fetch: tt.fetch}
		if n, err := r.Body(t.Context(), id); n != 0 || !errors.Is(err, tt.want) {
			t.Errorf("%s: %d parts, error %v, want %v", tt.name, n, err, tt.want)
		}
	}
	for i, e := range b.extents(id) {
		if e != before[i] {
			t.Errorf("part %d lies at %v, was at %v", i, e, before[i])
		}
	}
	r := storage.Repair{State: b.states[1], Log: b.log}
	if _, err := r.Body(t.Context(), 1<<40); !errors.Is(err, covey.NotFound) {
		t.Errorf("a body that is not there: %v", err)
	}
	for _, part := range []int{-1, 3} {
		if _, err := storage.ReadPart(a.states[1], a.log, id, part); !errors.Is(err, covey.NotFound) {
			t.Errorf("part %d: %v", part, err)
		}
	}
	if _, err := storage.ReadPart(b.states[1], b.log, id, 1); !errors.Is(err, covey.Corrupt) {
		t.Errorf("a damaged part is handed out: %v", err)
	}
}

// A segment with a damaged body stays, is not tried in vain, and goes when the
// body is repaired.
func TestCompactRepaired(t *testing.T) {
	a, b, _ := pair(t)
	const id = 10 // one of the few that are left in its segment
	e := b.extents(id)[0]
	b.damage(e)
	var told []covey.BodyID
	b.compactor(func(shard covey.ShardID, body covey.BodyID) {
		if shard != 1 {
			t.Errorf("shard %d is told to be damaged", shard)
		}
		told = append(told, body)
	})
	for range 3 {
		if err := b.c.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(told) != 1 || told[0] != id {
		t.Errorf("bodies %v were told to be damaged, want %d once", told, id)
	}
	r := storage.Repair{State: b.states[1], Log: b.log, Fetch: fetchFrom(a)}
	if n, err := r.Body(t.Context(), id); n != 1 || err != nil {
		t.Fatalf("%d parts were repaired, error %v", n, err)
	}
	if err := b.c.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.log.Read(e, make([]byte, e.Length)); !errors.Is(err, covey.NotFound) {
		t.Errorf("the segment with the damage is still there: %v", err)
	}
	b.verifyRepaired()
}

// lose has part of a body lie in a segment that is not there.
func (m *machine) lose(id covey.BodyID, part int) {
	m.t.Helper()
	now := m.extents(id)
	to := slices.Clone(now)
	to[part].Segment = 1 << 40
	if err := m.states[1].Move([]storage.Move{{Resident: storage.Resident{Body: id, Extents: now}, To: to}}); err != nil {
		m.t.Fatal(err)
	}
}

func TestRepairLost(t *testing.T) {
	a, b, id := pair(t)
	b.lose(id, 1)
	if got := b.damaged(); len(got) != 1 || got[0] != id {
		t.Fatalf("damaged are %v, want %d", got, id)
	}
	r := storage.Repair{State: b.states[1], Log: b.log, Fetch: fetchFrom(a)}
	if n, err := r.Body(t.Context(), id); n != 1 || err != nil {
		t.Fatalf("%d parts were repaired, error %v", n, err)
	}
	b.verifyRepaired()
}

// TestDamagedCopy copies a shard with a body of which a part is damaged, and one
// is gone altogether: the receiver finds out, and can have them from elsewhere.
func TestDamagedCopy(t *testing.T) {
	a, sound, id := pair(t)
	a.damage(a.extents(id)[1])
	a.lose(id, 2)
	b := startMachine(t, durabletest.NewDisk(), t.TempDir())
	t.Cleanup(b.close)
	to := b.restore()
	carry(t, a.take(), to, nil)
	b.install(to, "")
	if got := b.damaged(); len(got) != 2 || got[0] != id || got[1] != id {
		t.Fatalf("damaged are %v, want %d twice", got, id)
	}
	r := storage.Repair{State: b.states[1], Log: b.log, Fetch: fetchFrom(sound)}
	if n, err := r.Body(t.Context(), id); n != 2 || err != nil {
		t.Fatalf("%d parts were repaired, error %v", n, err)
	}
	b.verifyRepaired()
}
