package imapd

import (
	"strings"

	"github.com/covey-mail/covey/storage"
)

// A matcher tells whether names match one LIST pattern (RFC 3501 section
// 6.3.8). It steps through a name once, with all ways to match in the bits of a
// word, so that no pattern takes more than its length times that of the name.
type matcher struct {
	literals string
	inbox    *matcher          // for INBOX, whose case does not matter; nil in itself
	at       map[byte][]uint64 // at[c] has bit i set if literals[i] is c
	star     []uint64          // bit i: "*" stands before literal i
	percent  []uint64          // bit i: "%" stands there
	state    []uint64          // scratch: bit i: i literals are matched
}

// newMatcher prepares a pattern, the reference already put in front.
func newMatcher(pattern string) *matcher {
	m := compile(pattern)
	m.inbox = compile(strings.ToUpper(pattern))
	return m
}

// foldInbox writes INBOX at the start of a pattern as it stands in names of what is
// below it.
func foldInbox(pattern string) string {
	first, rest, below := strings.Cut(pattern, string(delimiter))
	if below && strings.EqualFold(first, storage.Inbox) {
		return storage.Inbox + string(delimiter) + rest
	}
	return pattern
}

func compile(pattern string) *matcher {
	n := len(pattern)/64 + 1
	m := &matcher{at: make(map[byte][]uint64), star: make([]uint64, n), percent: make([]uint64, n), state: make([]uint64, n)}
	var literals strings.Builder
	for i := range len(pattern) {
		at := literals.Len()
		word, bit := at/64, uint64(1)<<(at%64)
		switch c := pattern[i]; c {
		case '*':
			m.star[word] |= bit
		case '%':
			m.percent[word] |= bit
		default:
			if m.at[c] == nil {
				m.at[c] = make([]uint64, n)
			}
			m.at[c][word] |= bit
			literals.WriteByte(c)
		}
	}
	m.literals = literals.String()
	return m
}

// match reports whether the pattern matches the whole of name. It is for one
// goroutine at a time.
func (m *matcher) match(name string) bool {
	if name == storage.Inbox && m.inbox != nil {
		return m.inbox.match(name)
	}
	if len(m.literals) > len(name) {
		return false
	}
	clear(m.state)
	m.state[0] = 1
	for i := range len(name) {
		if !m.step(name[i]) {
			return false
		}
	}
	end := len(m.literals)
	return m.state[end/64]&(1<<(end%64)) != 0
}

// step takes one octet of the name and reports whether any way to match is left.
func (m *matcher) step(c byte) bool {
	at := m.at[c]
	var carry, any uint64
	for w, s := range m.state {
		stay := m.star[w]
		if c != delimiter {
			stay |= m.percent[w]
		}
		next := s&stay | carry
		carry = 0
		if at != nil {
			moved := s & at[w]
			next |= moved << 1
			carry = moved >> 63
		}
		m.state[w] = next
		any |= next
	}
	return any != 0
}
