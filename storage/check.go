package storage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage/seglog"
)

// maxViolations bounds what one check returns.
const maxViolations = 100

// A violations list gathers what a check finds.
type violations []error

func (v *violations) add(format string, args ...any) {
	if len(*v) < maxViolations {
		*v = append(*v, covey.Errorf(covey.Corrupt, format, args...))
	}
}

// An invariant is a query that returns a row, with a text to say which, for each
// violation.
type invariant struct{ what, sql string }

func invariants() []invariant {
	return []invariant{
		{"mailbox without counts, or counts without mailbox",
			`SELECT id FROM mailbox WHERE id NOT IN (SELECT mailbox FROM count)
			UNION SELECT mailbox FROM count WHERE mailbox NOT IN (SELECT id FROM mailbox)`},
		{"mailbox whose counts are not the sums of its messages",
			`SELECT count.mailbox FROM count LEFT JOIN (
				SELECT mailbox, count(*) AS n, sum(size) AS b, sum(system & 1 = 0) AS u, sum(system & 8 != 0) AS d
				FROM message GROUP BY mailbox) AS g ON g.mailbox = count.mailbox
			WHERE messages != coalesce(n, 0) OR bytes != coalesce(b, 0) OR unseen != coalesce(u, 0) OR deleted != coalesce(d, 0)`},
		{"message beyond UIDNEXT or HIGHESTMODSEQ, by mailbox",
			`SELECT DISTINCT message.mailbox FROM message JOIN count ON count.mailbox = message.mailbox
			WHERE uid >= uid_next OR message.mod_seq > count.mod_seq OR uid < 1`},
		{"message in no mailbox that can be selected, by mailbox",
			`SELECT mailbox FROM message EXCEPT SELECT id FROM mailbox WHERE no_select = 0`},
		{"UID given twice, by mailbox", `SELECT mailbox FROM message GROUP BY mailbox, uid HAVING count(*) > 1`},
		{"UID both expunged and there, by mailbox",
			`SELECT DISTINCT e.mailbox FROM expunged AS e JOIN message AS m ON m.mailbox = e.mailbox AND m.uid BETWEEN e.first AND e.last`},
		{"mailbox whose runs of expunged UIDs are miscounted or beyond UIDNEXT",
			`SELECT count.mailbox FROM count LEFT JOIN (SELECT mailbox, count(*) AS n, max(last) AS l FROM expunged GROUP BY mailbox) AS g
			ON g.mailbox = count.mailbox WHERE runs != coalesce(n, 0) OR coalesce(l, 0) >= uid_next`},
		{"mailbox without its account, or newer than it",
			`SELECT mailbox.id FROM mailbox LEFT JOIN account ON account.id = mailbox.account
			WHERE account.id IS NULL OR mailbox.validity > account.validity OR mailbox.id > (SELECT last_mailbox FROM meta)`},
		{"body whose references are miscounted",
			`SELECT body.id FROM body LEFT JOIN (SELECT body, count(*) AS n FROM
				(SELECT body FROM message UNION ALL SELECT body FROM queue) GROUP BY body) AS g ON g.body = body.id
			WHERE refs != coalesce(n, 0) OR body.id > (SELECT applied FROM meta)`},
		{"message without body, or not of its size, by body",
			`SELECT message.body FROM message LEFT JOIN body ON body.id = message.body
			WHERE body.id IS NULL OR message.size != body.size + coalesce(length(prefix), 0)`},
		{"delivery in the queue without its body", `SELECT entry FROM queue WHERE body NOT IN (SELECT id FROM body)`},
		{"body without summary, or summary without body",
			`SELECT id FROM body WHERE id NOT IN (SELECT body FROM summary)
			UNION SELECT body FROM summary WHERE body NOT IN (SELECT id FROM body)`},
	}
}

func (d *database) check(ctx context.Context, m *machine) []error {
	d.flush(m)
	var v violations
	for q := d.query("PRAGMA integrity_check"); q.next(); {
		if s := q.textAt(0); s != "ok" {
			v.add("database: %s", s)
		}
	}
	for _, i := range invariants() {
		if ctx.Err() != nil {
			return append(v, ctx.Err())
		}
		for q := d.query(i.sql); q.next(); {
			v.add("%s: %d", i.what, q.intAt(0))
		}
	}
	d.checkKnown(&v)
	d.checkNames(&v)
	m.checkRolls(&v)
	d.checkPlaces(ctx, m, &v)
	return v
}

// checkKnown compares the set of accounts with the table.
func (d *database) checkKnown(v *violations) {
	n := 0
	for q := d.query("SELECT id FROM account"); q.next(); {
		n++
		if id := covey.AccountID(q.intAt(0)); !d.known.has(id) {
			v.add("account %d: not known in memory", id)
		}
	}
	if known := d.known.len(); known != n {
		v.add("%d accounts, %d known in memory", n, known)
	}
}

// checkNames looks for mailboxes whose parent is missing.
func (d *database) checkNames(v *violations) {
	for q := d.query("SELECT account, name FROM mailbox WHERE instr(name, '/')"); q.next(); {
		account, up := q.intAt(0), parent(q.textAt(1))
		if d.query("SELECT count(*) FROM mailbox WHERE account = ?+0 AND name = ?||''").int(account).text(up).one() == 0 {
			v.add("account %d: mailbox %q is missing, though others are below it", account, up)
		}
	}
}

// checkPlaces compares where bodies and chunks lie with what is known per
// segment.
func (d *database) checkPlaces(ctx context.Context, m *machine, v *violations) {
	want := usage{}
	pairs := int64(0)
	for q := d.query("SELECT id, size, extents FROM body"); q.next(); {
		if ctx.Err() != nil {
			q.end()
			*v = append(*v, ctx.Err())
			return
		}
		id, list := q.intAt(0), d.decodeExtents(q.blobAt(2))
		checkSize(v, covey.BodyID(id), q.intAt(1), list)
		for i, e := range list {
			want.count(e, 1)
			if indexSegment(list, e.Segment) < i {
				continue
			}
			pairs++
			if d.query("SELECT count(*) FROM resident WHERE segment = ?+0 AND body = ?+0").int(int64(e.Segment)).int(id).one() == 0 {
				v.add("body %d: not among the residents of segment %d", id, e.Segment)
			}
		}
	}
	if n := d.query("SELECT count(*) FROM resident").one(); n != pairs {
		v.add("%d residents of segments, want %d", n, pairs)
	}
	if n := d.query("SELECT count(*) FROM chunk").one(); n != int64(m.uploads.pending) {
		v.add("%d chunks stored, %d pending", n, m.uploads.pending)
	}
	m.checkLive(want, d.used, v)
}

func checkSize(v *violations, id covey.BodyID, want int64, list []seglog.Extent) {
	var size int64
	for _, e := range list {
		size += int64(e.Length)
	}
	if size != want {
		v.add("body %d: %d octets in the log, want %d", id, size, want)
	}
}

// checkLive compares live bytes with those of bodies and, added here, chunks.
func (m *machine) checkLive(want, got usage, v *violations) {
	for _, up := range m.uploads.byID {
		for _, e := range up.chunks {
			want.count(e, 1)
		}
	}
	if !maps.Equal(want, got) {
		v.add("live bytes per segment are %v, want %v", got, want)
	}
}

func (t *memory) check(_ context.Context, m *machine) []error {
	var v violations
	refs := map[covey.BodyID]int{}
	for id, b := range t.boxes {
		t.checkBox(id, b, &v)
		for i := range b.messages {
			refs[b.messages[i].Body]++
		}
	}
	for _, one := range m.queue.list {
		refs[one.Body]++
	}
	want := usage{}
	for id, b := range t.bodies {
		if b.refs != refs[id] {
			v.add("body %d: %d references, want %d", id, b.refs, refs[id])
		}
		delete(refs, id)
		checkSize(&v, id, b.size, b.extents)
		for _, e := range b.extents {
			want.count(e, 1)
		}
	}
	for id := range refs {
		v.add("body %d is not there", id)
	}
	m.checkLive(want, t.used, &v)
	m.checkRolls(&v)
	return v
}

func (t *memory) checkBox(id covey.MailboxID, b *memoryBox, v *violations) {
	want := mailbox{Mailbox: Mailbox{Messages: uint32(len(b.messages))}}
	var m machine
	last := covey.UID(0)
	for _, msg := range b.messages {
		want.Bytes += msg.Size
		m.countFlags(&want, msg.Flags.System, 1)
		if msg.UID <= last || msg.UID >= b.row.UIDNext || msg.ModSeq > b.row.HighestModSeq {
			v.add("mailbox %d: message %d after %d, next %d", id, msg.UID, last, b.row.UIDNext)
		}
		last = msg.UID
	}
	if r := b.row; r.Messages != want.Messages || r.Bytes != want.Bytes || r.Unseen != want.Unseen || r.Deleted != want.Deleted {
		v.add("mailbox %d: counts are not the sums of its messages", id)
	}
	if up := parent(b.row.Name); up != "" && t.mailboxNamed(b.row.Account, up) == nil {
		v.add("account %d: mailbox %q is missing, though others are below it", b.row.Account, up)
	}
}

// A BodyLog is the part of seglog.Log that bodies are read from.
type BodyLog interface {
	// Read fills p, of e's length, with the bytes at e and checks them against
	// e.Sum. covey.NotFound if the segment is gone.
	Read(e seglog.Extent, p []byte) error
}

// CheckBodies reads every body and pending chunk of a shard from the log and
// returns those that do not match their checksum or are not there, a body as a
// BodyError. It may run beside everything else.
func CheckBodies(ctx context.Context, state Placer, log BodyLog) []error {
	var v violations
	live, err := state.Live()
	if err != nil {
		return []error{err}
	}
	buf := make([]byte, ChunkSize)
	for _, segment := range slices.Sorted(maps.Keys(live)) {
		err := eachResident(state, segment, func(r Resident) error {
			r.verify(state, log, segment, buf, &v)
			return ctx.Err()
		})
		if err != nil {
			return append(v, err)
		}
	}
	return v
}

// eachResident calls fn for the residents of a segment until it returns an
// error.
func eachResident(state Placer, segment uint64, fn func(Resident) error) error {
	var after Resident
	for {
		list, err := state.Residents(segment, after, sliceRows)
		if err != nil || len(list) == 0 {
			return err
		}
		for _, r := range list {
			if err := fn(r); err != nil {
				return err
			}
		}
		after = list[len(list)-1]
	}
}

// verify reads those extents of r that lie in a segment, and returns how many
// bytes these are.
func (r Resident) verify(state Placer, log BodyLog, segment uint64, buf []byte, v *violations) (n int64) {
	for _, e := range r.Extents {
		if e.Segment != segment {
			continue
		}
		if int64(e.Length) > int64(len(buf)) {
			v.add("%s: extent of %d octets", r, e.Length)
			continue
		}
		n += int64(e.Length)
		err := log.Read(e, buf[:e.Length])
		if errors.Is(err, covey.NotFound) && !r.still(state, segment) {
			return n // deleted or moved meanwhile; the compactor verified what it moved
		}
		if err != nil && r.Body > 0 {
			v.add("%w", &BodyError{r.Body, fmt.Errorf("in segment %d at %d: %w", e.Segment, e.Offset, err)})
		} else if err != nil {
			v.add("%s in segment %d at %d: %w", r, e.Segment, e.Offset, err)
		}
	}
	return n
}

// still reports whether r lies in the segment where it was found.
func (r Resident) still(state Placer, segment uint64) bool {
	found := errors.New("found")
	err := eachResident(state, segment, func(o Resident) error {
		if o.Body == r.Body && o.Upload == r.Upload && o.N == r.N {
			return found
		}
		return nil
	})
	return err != nil
}

// String names the resident as messages about damage do.
func (r Resident) String() string {
	if r.Body > 0 {
		return fmt.Sprintf("body %d", r.Body)
	}
	return fmt.Sprintf("chunk %d of %s", r.N, r.Upload)
}
