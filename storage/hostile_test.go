package storage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable/durabletest"
	"github.com/covey-mail/covey/internal/snapshot"
	"github.com/covey-mail/covey/storage/seglog"
)

// withLog opens a state with a log of its own in memory.
func withLog(t testing.TB) *shard {
	t.Helper()
	log, err := seglog.Open(seglog.Config{Dir: "/log", FS: durabletest.NewDisk()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	return open(t, Config{Path: filepath.Join(t.TempDir(), "shard"), Log: log})
}

// run runs SQL in a database file that is not open.
func run(t testing.TB, path, sql string) {
	t.Helper()
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(sqlitex.ExecuteScript(conn, sql, nil), conn.Close()); err != nil {
		t.Fatal(err)
	}
}

// A sentPiece is a piece as a peer sends it.
type sentPiece struct {
	c     snapshot.Condition
	bytes string
}

// feed restores s from a database file and pieces that a peer made up, and
// returns the first error.
func feed(t testing.TB, s *shard, h snapshot.Header, path string, list []sentPiece) error {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h.Database, h.Pieces = int64(len(data)), int64(len(list))
	var section []byte
	for _, p := range list {
		h.PieceBytes += int64(len(p.bytes))
		section = append(snapshot.AppendPieceHeader(section, p.c, len(p.bytes)), p.bytes...)
	}
	file, err := snapshot.StartCopy(durabletest.NewDisk(), bytes.NewReader(data), h.Database, "/copy")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	stream := snapshot.NewStream(h, file, bytes.NewReader(section))
	r, err := s.Restore()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Abort()
	for n := uint64(0); ; n++ {
		b, err := stream.ReadChunk(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := r.WriteChunk(b); err != nil {
			return err
		}
	}
	_, err = r.Stage()
	return err
}

// B-04: what a peer sends is looked at like any foreign file, and compared with
// what it says of itself.
func TestB04_HostileCopy(t *testing.T) {
	// Two messages "x" at 1 and 2, and a pending chunk "chunk".
	made := filepath.Join(t.TempDir(), "made")
	s := open(t, Config{Path: made})
	s.Apply([]seglog.Command{deliver(1, 1), deliver(2, 1), entry(3, Chunk{Upload: covey.DeliveryID{Node: 9}, Time: noon, Data: []byte("chunk")})})
	head := snapshot.Header{}
	head.Index, head.Hash = s.Hash()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	good := []sentPiece{{snapshot.Sound, "x"}, {snapshot.Sound, "x"}, {snapshot.Sound, "chunk"}}
	for _, tt := range []struct {
		name   string
		sql    string
		head   func(*snapshot.Header)
		pieces []sentPiece
		ok     bool
	}{
		{name: "good", ok: true},
		{name: "damaged at the sender", pieces: []sentPiece{good[0], {snapshot.Damaged, "y"}, good[2]}, ok: true},
		{name: "trigger", sql: "CREATE TRIGGER bad AFTER INSERT ON message BEGIN DELETE FROM meta; END"},
		{name: "view", sql: "DROP TABLE summary; CREATE VIEW summary AS SELECT 1 AS body, 'x' AS summary"},
		{name: "other shard", sql: "UPDATE meta SET shard = 9"},
		{name: "other group", head: func(h *snapshot.Header) { h.Group = 9 }},
		{name: "other index", head: func(h *snapshot.Header) { h.Index++ }},
		{name: "other hash", head: func(h *snapshot.Header) { h.Hash++ }},
		{name: "extents", sql: "UPDATE body SET extents = x'ff' WHERE id = 2"},
		{name: "chunk", sql: "UPDATE chunk SET extent = x'ff'"},
		{name: "delivery", sql: "INSERT INTO delivered VALUES (1, x'ff')"},
		{name: "version", sql: "PRAGMA user_version = 77"},
		{name: "fewer pieces", pieces: good[:2]},
		{name: "more pieces", pieces: append(good[:3:3], good[0])},
		{name: "length of a piece", pieces: []sentPiece{good[0], {snapshot.Sound, "xx"}, good[2]}},
		{name: "length of a damaged piece", pieces: []sentPiece{good[0], {snapshot.Damaged, "xx"}, good[2]}},
		{name: "other bytes", pieces: []sentPiece{good[0], {snapshot.Sound, "y"}, good[2]}},
		{name: "other order", pieces: []sentPiece{good[2], good[0], good[1]}},
		{name: "extent of no length", sql: "UPDATE body SET extents = x'01010000' WHERE id = 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "copy")
			data, err := os.ReadFile(made)
			if err == nil {
				err = os.WriteFile(path, data, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			if tt.sql != "" {
				run(t, path, tt.sql)
			}
			h := head
			if tt.head != nil {
				tt.head(&h)
			}
			if tt.pieces == nil {
				tt.pieces = good
			}
			s := withLog(t)
			err = feed(t, s, h, path, tt.pieces)
			if tt.ok && err != nil || !tt.ok && !errors.Is(err, covey.Corrupt) {
				t.Errorf("error %v", err)
			}
			files, err := os.ReadDir(filepath.Dir(s.cfg.Path))
			if err != nil || len(files) > 2 {
				t.Errorf("left are %v, error %v", files, err)
			}
		})
	}
	t.Run("no database", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "copy")
		if err := os.WriteFile(path, []byte(strings.Repeat("not a database ", 1000)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := feed(t, withLog(t), head, path, good); !errors.Is(err, covey.Corrupt) {
			t.Errorf("error %v", err)
		}
	})
}

// A page that nothing looks at before some reader does is found all the same.
func TestB04_CopyWithABadPage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "copy")
	s := open(t, Config{Path: path})
	var pieces []sentPiece
	for i := range uint64(200) {
		s.Apply([]seglog.Command{entry(i+1, Deliver{
			ID: covey.DeliveryID{Node: 1, Seq: i}, Time: noon, Recipients: []Recipient{{Account: 1, Mailbox: Inbox}},
			Summary: bytes.Repeat(fmt.Appendf(nil, "<%d>", i), 100), Body: Body{Inline: []byte("x"), Size: 1},
		})})
		pieces = append(pieces, sentPiece{snapshot.Sound, "x"})
	}
	h := snapshot.Header{}
	h.Index, h.Hash = s.Hash()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := feed(t, withLog(t), h, path, pieces); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(data, []byte("<150><150>"))
	clear(data[at&^4095:][:4096])
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := feed(t, withLog(t), h, path, pieces); !errors.Is(err, covey.Corrupt) {
		t.Errorf("error %v", err)
	}
}

// FuzzRestore has a peer send any octets as the pieces of a sound database.
func FuzzRestore(f *testing.F) {
	made := filepath.Join(f.TempDir(), "made")
	from := open(f, Config{Path: made})
	from.Apply([]seglog.Command{deliver(1, 1), deliver(2, 1)})
	index, hash := from.Hash()
	if err := from.Close(); err != nil {
		f.Fatal(err)
	}
	s := withLog(f)
	f.Add(byte(1), "x", byte(1), "x")
	f.Add(byte(2), "y", byte(1), "xyz")
	f.Fuzz(func(t *testing.T, c1 byte, p1 string, c2 byte, p2 string) {
		list := []sentPiece{{snapshot.Condition(c1), p1}, {snapshot.Condition(c2), p2}}
		err := feed(t, s, snapshot.Header{Index: index, Hash: hash}, made, list)
		good := func(p sentPiece) bool {
			return p.c == snapshot.Sound && p.bytes == "x" || p.c == snapshot.Damaged && len(p.bytes) == 1
		}
		if want := good(list[0]) && good(list[1]); want != (err == nil) {
			t.Errorf("pieces %q: %v", list, err)
		}
		if err != nil && !errors.Is(err, covey.Corrupt) {
			t.Errorf("error %v, want covey.Corrupt", err)
		}
	})
}

func TestUpgrade(t *testing.T) {
	for version, undo := range map[int]string{
		1: "DROP TABLE installed; DROP TABLE queue; DROP TABLE heard",
		2: "DROP TABLE queue; DROP TABLE heard",
	} {
		t.Run(fmt.Sprint("version ", version), func(t *testing.T) {
			cfg := Config{Path: filepath.Join(t.TempDir(), "shard")}
			s := open(t, cfg)
			s.Apply([]seglog.Command{deliver(1, 1)})
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			set := fmt.Sprintf("PRAGMA user_version = %d", version)
			run(t, cfg.Path, undo+"; "+set)
			s = open(t, cfg)
			if mb, err := s.Mailbox(1, Inbox); s.Applied() != 1 || mb.Messages != 1 || err != nil {
				t.Errorf("after the upgrade: applied %d, %+v, error %v", s.Applied(), mb, err)
			}
			if got := surviving(t, s); got != 1 {
				t.Errorf("a crash leaves %d commands", got)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			run(t, cfg.Path, set)
			if s, err := Open(cfg); err == nil {
				t.Errorf("opened %v, of version %d with tables of version %d", s, version, schemaVersion)
			}
		})
	}
}
