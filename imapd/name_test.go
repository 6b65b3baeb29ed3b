package imapd

import (
	"strings"
	"testing"
	"time"
)

func TestNamesOnTheWire(t *testing.T) {
	for name, wire := range map[string]string{
		"INBOX": "INBOX", "a&b": "a&-b", "é": "&AOk-", "台北": "&U,BTFw-", "a😀b": "a&2D3eAA-b", "x/y z": "x/y z", "&": "&-",
		"é&è": "&AOk-&-&AOg-",
	} {
		if got := encodeName(name); got != wire {
			t.Errorf("encode %q: got %q, want %q", name, got, wire)
		}
		if got, ok := decodeName(wire); !ok || got != name {
			t.Errorf("decode %q: got %q %t, want %q", wire, got, ok, name)
		}
	}
	for _, wire := range []string{
		"&AAA", "&", "&AOk", "&AOk-&AOg-", "&AGE-", "&2D0-", "&3gDYPQ-", "&AOkA-", "&AO==-", "&A-", "\xc3\xa9", "&****-", "&AOl-x&",
	} {
		if got, ok := decodeName(wire); ok {
			t.Errorf("decode %q: got %q, want refusal", wire, got)
		}
	}
}

func TestCanonicalNames(t *testing.T) {
	for in, want := range map[string]string{
		"inbox": "INBOX", "InBox/x": "INBOX/x", "inboxes": "inboxes", "x/inbox": "x/inbox", "e\u0301": "é", "a b": "a b", "a\u200db": "a\u200db",
		"...": "...",
	} {
		if got, ok := canonicalName(in); !ok || got != want {
			t.Errorf("%q: got %q %t, want %q", in, got, ok, want)
		}
	}
	for _, in := range []string{
		"", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "../x", "/etc/passwd", "a\x00b", "a\rb", "a\nb", "a\x7f", "a\u0085b", "a\u2028b",
		"a\u202eb", "a\u2066b", "a\u200bb", "\ufeffa", "a*b", "a%b", "\xff", repeat("x", 4096), strings.Repeat("a/", 64) + "a",
	} {
		if got, ok := canonicalName(in); ok {
			t.Errorf("%q: got %q, want refusal", in, got)
		}
	}
}

// slowMatch is the grammar of RFC 3501 section 6.3.8 as it reads.
func slowMatch(pattern, name string) bool {
	if pattern == "" {
		return name == ""
	}
	switch c := pattern[0]; c {
	case '*', '%':
		if slowMatch(pattern[1:], name) {
			return true
		}
		return name != "" && (c == '*' || name[0] != delimiter) && slowMatch(pattern, name[1:])
	default:
		return name != "" && name[0] == c && slowMatch(pattern[1:], name[1:])
	}
}

func TestListMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"*", "a/b/c", true}, {"%", "a", true}, {"%", "a/b", false}, {"%/%", "a/b", true}, {"a*c", "a/b/c", true}, {"a%c", "a/c", false},
		{"%*", "a/b", true}, {"*%", "a/b", true}, {"", "a", false}, {"a", "A", false}, {"inbox", "INBOX", true}, {"iN%", "INBOX", true},
		{"inbox/x", "INBOX/x", false}, {"%a%a%a", "aaa", true}, {"%a%a%a%a", "aaa", false}, {"é%", "éa", true}, {repeat("a", 70), repeat("a", 70), true},
		{repeat("%a", 70), repeat("ba", 70), true}, {repeat("%a", 70) + "b", repeat("ba", 70), false}, {"*/c", "a/b/c", true},
	} {
		if got := newMatcher(tt.pattern).match(tt.name); got != tt.want {
			t.Errorf("%q matches %q: got %t", tt.pattern, tt.name, got)
		}
	}
}

func FuzzListMatch(f *testing.F) {
	f.Add("*", "a/b")
	f.Add("%a%*b", "aab/b")
	f.Add("%/%", "x/y")
	f.Add(repeat("*%", 40), "a/b")
	f.Add("a%%%*%b", "a/////b")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if strings.EqualFold(name, "INBOX") {
			return
		}
		began := time.Now()
		got := newMatcher(pattern).match(name)
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %v", took)
		}
		// The slow one knows no bounds.
		if strings.Count(pattern, "*")+strings.Count(pattern, "%") > 6 || len(name) > 30 {
			return
		}
		if want := slowMatch(pattern, name); got != want {
			t.Errorf("%q matches %q: got %t, want %t", pattern, name, got, want)
		}
	})
}

func FuzzName(f *testing.F) {
	for _, s := range []string{"INBOX", "&AOk-", "&AAA", "&2D3eAA-", "a&-b", "../x", "&U,BTFw-/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, wire string) {
		name, ok := decodeName(wire)
		if !ok {
			return
		}
		if got := encodeName(name); got != wire {
			t.Errorf("%q decodes to %q encodes to %q", wire, name, got)
		}
		if canonical, ok := canonicalName(name); ok {
			if again, ok := canonicalName(canonical); !ok || again != canonical {
				t.Errorf("%q becomes %q becomes %q", name, canonical, again)
			}
		}
	})
}
