package imapd

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage"
)

// TestRewrite shows what go-imap gets to see of a command.
func TestRewrite(t *testing.T) {
	for in, want := range map[string]string{
		"a noop":                            "a NOOP",
		"a Select inbox":                    `a SELECT "INBOX"`,
		`a select "R&-D/&AOk-"`:             `a SELECT "R&-D/é"`,
		`a create "x\\y\"z/" (use (\Sent))`: `a CREATE "x\\y\"z" (USE (\Sent))`,
		"a rename x y/":                     `a RENAME "x" "y"`,
		`a list (subscribed) "" (% "*") return (children status (messages))`: `a LIST (SUBSCRIBED) "" ("%" "*") RETURN (CHILDREN STATUS (MESSAGES))`,
		`a lsub "x/" %`:                                      `a LSUB "x/" "%"`,
		"a status x (messages unseen)":                       `a STATUS "x" (MESSAGES UNSEEN)`,
		"a uid move 1 x":                                     `a UID MOVE 1 "x"`,
		"a search or (text secret) not 5 smaller 3":          "a SEARCH ALL",
		"a uid search return (min max) charset utf-8 all":    "a UID SEARCH RETURN (MIN MAX) ALL",
		`a append x (\Seen k) " 1-Feb-2026 03:04:05 +0100" `: `a APPEND "x" (\Seen k) " 1-Feb-2026 03:04:05 +0100" `,
	} {
		cmd, err := parseCommand([]byte(in))
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		r, err := rewrite(cmd)
		if err != nil {
			t.Errorf("%s: %v", in, err)
		} else if got := string(r.out); got != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
}

func TestRewriteRefuses(t *testing.T) {
	for _, in := range []string{
		"a noop x", "a select", "a select x y", "a select (x)", "a create x (use)", "a create x ()", "a rename x", "a status x", "a status x ()", "a status x (frob)",
		`a append x "yesterday" `, `a append x (\Seen)`, `a append x " 1-Feb-0000 03:04:05 +0100" `, "a copy 1", "a copy x y", "a uid expunge", `a select "x`, `a select "\x"`, `a select "x"y`, "a xfrob", "a uid noop", "a select x{", "a list x",
		`a list "" * return`, "a lsub x",
	} {
		cmd, err := parseCommand([]byte(in))
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if r, err := rewrite(cmd); err == nil && len(r.s) == 0 {
			t.Errorf("%s: became %q", in, r.out)
		}
	}
}

func ranges(n ...covey.UID) []storage.UIDRange {
	var out []storage.UIDRange
	for i := 0; i < len(n); i += 2 {
		out = append(out, storage.UIDRange{First: n[i], Last: n[i+1]})
	}
	return out
}

func TestResolveSets(t *testing.T) {
	for _, tt := range []struct {
		set  string
		last uint32
		want []storage.UIDRange
	}{
		{"1", 5, ranges(1, 1)}, {"3:1", 5, ranges(1, 3)}, {"*", 5, ranges(5, 5)}, {"2:*", 5, ranges(2, 5)}, {"9:*", 5, ranges(5, 9)},
		{"*:2", 5, ranges(2, 5)}, {"5,1,3:4", 9, ranges(1, 1, 3, 5)}, {"1:4294967295,7", 9, ranges(1, math.MaxUint32)}, {"1:*", 0, nil}, {"*", 0, nil},
		{"4,2", 0, ranges(2, 2, 4, 4)}, {"4294967295,4294967294", 9, ranges(math.MaxUint32-1, math.MaxUint32)},
	} {
		c := cursor{s: []byte(tt.set)}
		set := c.set()
		c.end()
		if c.err != nil {
			t.Fatalf("%s: %v", tt.set, c.err)
		}
		got := set.resolve(tt.last)
		if len(got)+len(tt.want) > 0 && !cmp.Equal(got, tt.want) {
			t.Errorf("%s of %d: got %v, want %v", tt.set, tt.last, got, tt.want)
		}
		if again := string(set.append(nil)); again != tt.set {
			t.Errorf("%s is written as %s", tt.set, again)
		}
	}
}

func TestRanges(t *testing.T) {
	all := ranges(1, 3, 5, 5, 8, 10)
	if got := count(all); got != 7 {
		t.Errorf("count: %d", got)
	}
	for uid, want := range map[covey.UID]bool{0: false, 1: true, 3: true, 4: false, 5: true, 7: false, 10: true, 11: false} {
		if got := contains(all, uid); got != want {
			t.Errorf("contains %d: %t", uid, got)
		}
	}
	if d := cmp.Diff(ranges(2, 3, 9, 9), intersect(all, ranges(2, 4, 6, 7, 9, 9))); d != "" {
		t.Errorf("intersect: %s", d)
	}
	for n, want := range map[uint32][2][]storage.UIDRange{
		1: {ranges(1, 1), ranges(2, 3, 5, 5, 8, 10)},
		3: {ranges(1, 3), ranges(5, 5, 8, 10)},
		4: {ranges(1, 3, 5, 5), ranges(8, 10)},
		6: {ranges(1, 3, 5, 5, 8, 9), ranges(10, 10)},
		7: {all, nil},
		9: {all, nil},
	} {
		head, tail := take(all, n)
		if len(tail) == 0 {
			tail = nil
		}
		if d := cmp.Diff(want, [2][]storage.UIDRange{head, tail}); d != "" {
			t.Errorf("take %d (-want +got):\n%s", n, d)
		}
	}
	if d := cmp.Diff(ranges(1, 3, 5, 5, 8, 10), all); d != "" {
		t.Errorf("the argument was changed: %s", d)
	}
}

// appendDateTime writes what package time would.
func TestDateTime(t *testing.T) {
	zones := []*time.Location{time.UTC, time.FixedZone("", 5*3600+45*60), time.FixedZone("", -9*3600-30*60), time.FixedZone("", -59), time.FixedZone("", 14*3600)}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 20_000 {
		when := time.Unix(random.Int64N(300<<30)-65<<30, 0).In(zones[i%len(zones)])
		if got, want := string(appendDateTime(nil, when)), when.Format(dateTimeLayout); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}
