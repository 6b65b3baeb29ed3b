package storage

import (
	"slices"
	"strings"

	"github.com/covey-mail/covey"
)

const allSystemFlags = covey.Seen | covey.Answered | covey.Flagged | covey.Deleted | covey.Draft

// checkFlags returns flags as they are kept: sorted, each once. A keyword must
// be an IMAP atom (RFC 9051 section 9).
func checkFlags(f covey.Flags) (covey.Flags, error) {
	if len(f.Keywords) > covey.MaxKeywords {
		return covey.Flags{}, covey.Errorf(covey.Limit, "%d keywords on one message", len(f.Keywords))
	}
	for _, k := range f.Keywords {
		if len(k) > covey.MaxKeywordLength {
			return covey.Flags{}, covey.Errorf(covey.Limit, "keyword of %d octets", len(k))
		}
		if k == "" || strings.IndexFunc(k, notInAtom) >= 0 {
			return covey.Flags{}, covey.Errorf(covey.Invalid, "keyword is not an atom")
		}
	}
	if f.System&^allSystemFlags != 0 {
		return covey.Flags{}, covey.Errorf(covey.Invalid, "unknown system flags %#x", uint8(f.System))
	}
	return covey.NewFlags(f.System, f.Keywords...), nil
}

func notInAtom(c rune) bool {
	return c <= ' ' || c >= 0x7f || strings.ContainsRune(`(){%*"\]`, c)
}

// spell returns flags with their keywords spelled as they were first used in mb,
// and mb's keywords with the new ones at the end. mb may be nil, one yet to be
// made, and is not changed.
func spell(mb *mailbox, f covey.Flags) (covey.Flags, []string, error) {
	f, err := checkFlags(f)
	if err != nil {
		return f, nil, err
	}
	var used []string
	if mb != nil {
		used = mb.Keywords
	}
	for i, k := range f.Keywords {
		at := slices.IndexFunc(used, func(u string) bool { return strings.EqualFold(u, k) })
		if at >= 0 {
			f.Keywords[i] = used[at]
			continue
		}
		if len(used) >= MaxMailboxKeywords {
			return f, nil, covey.Errorf(covey.Limit, "%d different keywords in one mailbox", len(used))
		}
		used = append(used[:len(used):len(used)], k)
	}
	return f, used, nil
}

// storeFlags applies a StoreFlags.
func (m *machine) storeFlags(c *StoreFlags, r *Result) error {
	mb, err := m.find(c.Account, c.Mailbox)
	if err != nil {
		return err
	}
	if c.Op > RemoveFlags {
		return covey.Errorf(covey.Invalid, "flag operation %d", c.Op)
	}
	if c.Op == RemoveFlags {
		c.Flags, err = checkFlags(c.Flags)
	} else {
		var keywords []string
		c.Flags, keywords, err = spell(mb, c.Flags)
		if err == nil && len(c.Flags.Keywords) > 0 {
			err = m.keywordsFit(mb, c)
		}
		defer func() {
			if r.ModSeq > 0 {
				mb.Keywords = keywords
			}
		}()
	}
	if err != nil {
		return err
	}
	in := m.span(mb, c.UIDs)
	for len(in.uids) > 0 {
		for _, msg := range m.t.messages(&in, sliceRows) {
			if c.Conditional && msg.ModSeq > c.UnchangedSince {
				r.Conflicts = appendUID(r.Conflicts, msg.UID)
				continue
			}
			r.UIDs = appendUID(r.UIDs, msg.UID)
			m.storeOne(mb, c, &msg, r)
		}
	}
	return nil
}

// storeOne changes the flags of a message, with the ModSeq that the command's
// first change gets.
func (m *machine) storeOne(mb *mailbox, c *StoreFlags, msg *Message, r *Result) {
	flags := c.result(msg.Flags)
	if flags.Equal(msg.Flags) {
		return
	}
	if r.ModSeq == 0 {
		r.ModSeq = m.bump(mb)
	}
	m.countFlags(mb, msg.Flags.System, -1)
	m.countFlags(mb, flags.System, 1)
	msg.Flags, msg.ModSeq = flags, r.ModSeq
	m.t.setFlags(mb.ID, msg)
	mb.recent.add(msg.ModSeq, msg.UID)
	m.rolls.mark(mb.ID, msg.UID, flags.System)
}

func (c *StoreFlags) result(f covey.Flags) covey.Flags {
	switch c.Op {
	case AddFlags:
		return f.With(c.Flags)
	case RemoveFlags:
		return f.Without(c.Flags)
	}
	return c.Flags
}

// keywordsFit reports whether no message would hold too many keywords.
func (m *machine) keywordsFit(mb *mailbox, c *StoreFlags) error {
	in := m.span(mb, c.UIDs)
	for c.Op == AddFlags && len(in.uids) > 0 {
		for _, msg := range m.t.messages(&in, sliceRows) {
			if n := len(c.result(msg.Flags).Keywords); n > covey.MaxKeywords {
				return covey.Errorf(covey.Limit, "%d keywords on one message", n)
			}
		}
	}
	return nil
}

// span returns those of uids that mb may hold now; what a command adds to mb is
// not in it.
func (m *machine) span(mb *mailbox, uids []UIDRange) span {
	return span{mailbox: mb.ID, uids: normalise(uids, mb.UIDNext-1)}
}
