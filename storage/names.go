package storage

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/covey-mail/covey"
)

// Limits on the name of a mailbox.
const (
	MaxNameLength  = 1000 // octets in all
	MaxLevelLength = 255  // octets of one level
	MaxNameDepth   = 32   // levels
)

// CleanName checks the form of a mailbox name and returns it as it is kept: the
// first level in upper case if it spells INBOX, all else as given. Names are
// keys and never paths, so ".." is a name like others. The error is
// covey.Invalid.
func CleanName(s string) (string, error) {
	if s == "" || len(s) > MaxNameLength || !utf8.ValidString(s) {
		return "", covey.Errorf(covey.Invalid, "mailbox name of %d octets: want 1 to %d of UTF-8", len(s), MaxNameLength)
	}
	if strings.IndexFunc(s, unicode.IsControl) >= 0 {
		return "", covey.Errorf(covey.Invalid, "mailbox name holds a control character")
	}
	depth := 0
	for level := range strings.SplitSeq(s, "/") {
		if depth++; level == "" || len(level) > MaxLevelLength || depth > MaxNameDepth {
			return "", covey.Errorf(covey.Invalid, "mailbox name: want at most %d levels of 1 to %d octets", MaxNameDepth, MaxLevelLength)
		}
	}
	first, rest, below := strings.Cut(s, "/")
	switch {
	case first == Inbox || !strings.EqualFold(first, Inbox):
		return s, nil
	case below:
		return Inbox + "/" + rest, nil
	}
	return Inbox, nil
}

// defaultFolder returns the use of the default folder called name, and whether
// there is one.
func defaultFolder(name string) (SpecialUse, bool) {
	switch name {
	case Inbox:
		return NoUse, true
	case "Archive":
		return Archive, true
	case "Drafts":
		return Drafts, true
	case "Junk":
		return Junk, true
	case "Sent":
		return Sent, true
	case "Trash":
		return Trash, true
	}
	return NoUse, false
}

// parents calls yield for the levels above name, the highest first.
func parents(name string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for i := range len(name) {
			if name[i] == '/' && !yield(name[:i]) {
				return
			}
		}
	}
}

// parent returns the name one level up, "" above the highest.
func parent(name string) string {
	return name[:max(0, strings.LastIndexByte(name, '/'))]
}
