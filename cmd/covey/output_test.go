package main

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey/node/admin"
)

func TestSize(t *testing.T) {
	for text, want := range map[string]size{
		"0": 0, "-1": -1, "1048576": 1 << 20, "512MiB": 512 << 20, "2G": 2 << 30, "2gib": 2 << 30, "3KB": 3 << 10, "1T": 1 << 40,
		"4194304T": 1 << 62, "17B": 17,
	} {
		var got size
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%s: got %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "B", "K", "iB", "-2", "-1K", "1.5G", "G2", "1GG", "4194305T", "9223372036854775808", "0x10", "1 G"} {
		var got size
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is taken for %d", text, got)
		}
	}
}

func TestBytesForPeople(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 64 << 20: "64.0 MiB", math.MaxInt64: "8192.0 PiB",
	} {
		if got := bytes64(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	s := stdio{out: &out}
	if err := s.table("name size", [][]string{{"a", "1"}, {"a-long-name", "22"}}); err != nil {
		t.Fatal(err)
	}
	want := "NAME         SIZE\na            1\na-long-name  22\n"
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestReadPassword(t *testing.T) {
	for in, want := range map[string]string{
		"secret\n": "secret", "secret": "secret", "with blank \r\nsecond line": "with blank ", "ünï\n": "ünï",
		strings.Repeat("x", 1024) + "\n": strings.Repeat("x", 1024),
	} {
		got, err := readPassword(stdio{in: strings.NewReader(in)}, "")
		if err != nil || got != want {
			t.Errorf("%.20q: got %.20q, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "\n", strings.Repeat("x", 1025), "latin \xe9\n"} {
		if got, err := readPassword(stdio{in: strings.NewReader(in)}, ""); err == nil {
			t.Errorf("%.20q is taken for %.20q", in, got)
		}
	}
}

func TestQueueRows(t *testing.T) {
	since := time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local)
	to := func(names ...string) (list []admin.QueuedRecipient) {
		for _, n := range names {
			list = append(list, admin.QueuedRecipient{Address: n + "@example.org", Shard: 2})
		}
		return list
	}
	got := queueRows([]admin.Queued{
		{Shard: 1, Delivery: "d", Sender: "s@example.net", Since: since, Left: 1, Recipients: to("a"), Tries: 3, Error: "no quorum"},
		{Shard: 3, Delivery: "e", Since: since, Left: 9, Recipients: to("a", "b", "c", "d")},
	})
	want := [][]string{
		{"d", "1", "2026-03-01 12:00:00", "3", "<s@example.net>", "a@example.org (shard 2)", "no quorum"},
		{"e", "3", "2026-03-01 12:00:00", "0", "<>", "a@example.org (shard 2), b@example.org (shard 2), c@example.org (shard 2), and 6 more", "-"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	sh := admin.Shard{Queued: 2, Oldest: &since}
	if got := queuedText(sh); got != "2 since 2026-03-01 12:00:00" {
		t.Errorf("in the status: %q", got)
	}
}
