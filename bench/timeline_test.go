package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
)

// grouped is a run whose users 0, 2 … are of group a, 1 and 3 of group b, and 5 of none.
func grouped(cfg Config) Config {
	cfg.Protocol, cfg.Addr, cfg.Users, cfg.UserPattern = SMTP, "sink", 6, "u%d@x"
	cfg.Groups = map[string]string{"u0@x": "a", "u1@x": "b", "u2@x": "a", "u3@x": "b", "u4@x": "a", "other@x": "c"}
	return cfg
}

// measureFake runs a trial whose operations do what the test says.
func measureFake(t *testing.T, cfg Config, operate func(ctx context.Context, op *operation) error) *Result {
	t.Helper()
	cfg, err := cfg.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	tr := trial{cfg: cfg, phase: "load", rec: newRecorder(nil, newTimeline(cfg)), open: func(int) session { return fakeSession{operate} }}
	res := &Result{}
	if err := tr.measure(t.Context(), res); err != nil {
		t.Fatal(err)
	}
	return res
}

// For half a second in the middle group b gets nothing but failures, and then for
// two seconds hangs.
func TestTimelineShowsAGroupsGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []Moment
		cfg := grouped(Config{Rate: 60, Duration: 5 * time.Second, Timeline: func(m Moment) { told = append(told, m) }})
		begin := time.Now()
		res := measureFake(t, cfg, func(_ context.Context, op *operation) error {
			at := time.Since(begin)
			if op.user == 1 || op.user == 3 {
				switch {
				case at >= time.Second && at < 1500*time.Millisecond:
					return refused("RCPT", "451 4.3.0 no")
				case at >= 1500*time.Millisecond && at < 3500*time.Millisecond:
					<-time.After(3500*time.Millisecond - at)
				}
			}
			<-time.After(10 * time.Millisecond)
			return nil
		})
		if d := cmp.Diff(res.Timeline, told); d != "" {
			t.Errorf("told otherwise than kept:\n%s", d)
		}
		if len(told) != 5*3 {
			t.Fatalf("%d moments of 5 seconds and 3 groups:\n%+v", len(told), told)
		}
		var done, failed int64
		for _, m := range told {
			if m.Group == "" {
				done, failed = done+m.Done, failed+m.Failed
			}
			if m.Group == "a" && (m.Done < 29 || m.Done > 31 || m.Failed != 0 || m.P50 != 10 || m.Max != 10) {
				t.Errorf("group a is disturbed: %+v", m)
			}
		}
		if done != res.Done || failed != res.Failed || failed < 9 || failed > 11 {
			t.Errorf("the lines have %d done and %d failed, the result %d and %d; want about 10 failed", done, failed, res.Done, res.Failed)
		}
		want := Moment{Second: 2, Group: "b"}
		if m := told[2*3+2]; m != want {
			t.Errorf("second 2 of b: %+v, want %+v", m, want)
		}
		if m := told[3*3+2]; m.Done < 45 || m.Max < 1900 || m.Max > 2010 {
			t.Errorf("second 3 of b: %+v, want all that hung", m)
		}
		checkGaps(t, res)
	})
}

func checkGaps(t *testing.T, res *Result) {
	t.Helper()
	if len(res.Groups) != 2 || res.Groups[0].Label != "a" || res.Groups[1].Label != "b" {
		t.Fatalf("groups %+v, want a and b", res.Groups)
	}
	if g := res.Groups[0].Gap; g.Seconds > 0.1 {
		t.Errorf("gap of a: %+v", g)
	}
	if g := res.Groups[1].Gap; g.Seconds < 2.45 || g.Seconds > 2.6 || g.From < 0.9 || g.From > 1.02 {
		t.Errorf("gap of b: %+v, want 2.5 s from the first second on", g)
	}
	if res.Gap.Seconds > 0.1 {
		t.Errorf("gap of all: %+v", res.Gap)
	}
	if res.Refused.Max > 0.1 {
		t.Errorf("refusals took %+v, want no time", res.Refused)
	}
}

// A group that never has a success has a gap as long as the run.
func TestGapsCountFromBeginToEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := measureFake(t, grouped(Config{Rate: 10, Duration: 3 * time.Second}), func(_ context.Context, op *operation) error {
			if op.user%2 == 1 {
				return errors.New("no")
			}
			return nil
		})
		if g := res.Groups[1]; g.Done != 0 || g.Gap.From != 0 || g.Gap.Seconds < 2.85 {
			t.Errorf("got %+v, want a gap from begin to end", g)
		}
		if res.Timeline != nil {
			t.Error("a time line that nobody wanted")
		}
	})
}

func TestOnlySomeUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen [6]atomic.Int64
		res := measureFake(t, grouped(Config{Count: 90, Conns: 3, Only: []string{"a"}}), func(_ context.Context, op *operation) error {
			seen[op.user].Add(1)
			return nil
		})
		for i := range seen {
			if want := map[int]int64{0: 30, 2: 30, 4: 30}[i]; seen[i].Load() != want {
				t.Errorf("user %d had %d operations, want %d", i, seen[i].Load(), want)
			}
		}
		if res.Groups[0].Done != 90 || res.Groups[1].Done != 0 {
			t.Errorf("groups %+v", res.Groups)
		}
	})
}

func TestTimelineIsBounded(t *testing.T) {
	cfg := grouped(Config{Timeline: func(Moment) {}})
	line := newTimeline(cfg)
	begin := time.Unix(0, 0)
	line.start(begin)
	line.finish(begin.Add(maxMoments / 2 * time.Second)) // three lines a second
	if len(line.moments) != maxMoments || !line.dropped {
		t.Errorf("%d moments, dropped %v; want %d, true", len(line.moments), line.dropped, maxMoments)
	}
}

func TestGroupsAreChecked(t *testing.T) {
	for name, spoil := range map[string]func(*Config){
		"only without groups": func(c *Config) { c.Groups, c.Only = nil, []string{"a"} },
		"nobody":              func(c *Config) { c.Groups = map[string]string{"x@y": "a"} },
		"only an unknown one": func(c *Config) { c.Only = []string{"c"} },
		"long label":          func(c *Config) { c.Groups["u0@x"] = strings.Repeat("a", maxLabel+1) },
		"escape in a label":   func(c *Config) { c.Groups["u0@x"] = "\x1b[31m" },
		"too many": func(c *Config) {
			c.Users = maxGroups + 1
			for i := range c.Users {
				c.Groups[fmt.Sprintf("u%d@x", i)] = fmt.Sprint(i)
			}
		},
	} {
		cfg := grouped(Config{Count: 1})
		spoil(&cfg)
		if _, err := Run(t.Context(), cfg); !errors.Is(err, covey.Invalid) {
			t.Errorf("%s: error %v, want Invalid", name, err)
		}
	}
}

func TestReadGroups(t *testing.T) {
	table := "ADDRESS  SHARD  MESSAGES\nu0@x     11     3\n\nu1@x\t9\n"
	got, err := ReadGroups(strings.NewReader(table))
	if d := cmp.Diff(map[string]string{"ADDRESS": "SHARD", "u0@x": "11", "u1@x": "9"}, got); err != nil || d != "" {
		t.Errorf("error %v, -want +got:\n%s", err, d)
	}
	labels, of := newNames(Config{UserPattern: "u%d@x"}).labelled(got, 3)
	if d := cmp.Diff([]string{"9", "11"}, labels); d != "" {
		t.Errorf("labels:\n%s", d)
	}
	if d := cmp.Diff([]int32{1, 0, -1}, of); d != "" {
		t.Errorf("users:\n%s", d)
	}
	for _, bad := range []string{"u0@x\n", strings.Repeat("x", maxGroupLine+1)} {
		if _, err := ReadGroups(strings.NewReader(bad)); !errors.Is(err, covey.Invalid) {
			t.Errorf("%.20q: error %v, want Invalid", bad, err)
		}
	}
}

func FuzzReadGroups(f *testing.F) {
	for _, s := range []string{"u0@x 1\n", "a b c\n\n", "a\n", "\x00 \xff\n", " \t a b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ReadGroups(strings.NewReader(s))
		if err != nil && !errors.Is(err, covey.Invalid) {
			t.Errorf("error %v is not Invalid", err)
		}
		for address, label := range got {
			if address == "" || label == "" || !strings.Contains(s, label) {
				t.Errorf("%q is %q", address, label)
			}
		}
	})
}

func TestMomentsForPeople(t *testing.T) {
	var out strings.Builder
	if err := WriteMoments(&out, Moment{0, "", 12, 3, 1.5, 20, 1234.567}, Moment{0, "16", 4, 0, 1, 2, 3}); err != nil {
		t.Fatal(err)
	}
	want := "     0  all             12       3      1.50     20.00   1234.57\n" +
		"     0  16               4       0      1.00      2.00      3.00\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
	if line, _, _ := strings.Cut(want, "\n"); len(line)+1 != len(MomentsHead) {
		t.Errorf("the head has %d characters, a line %d", len(MomentsHead), len(line)+1)
	}
}
