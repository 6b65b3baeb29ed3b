package covey

import (
	"slices"
	"strings"
)

// Limits on keywords, checked wherever flags enter (RFC 9051 section 2.3.2).
const (
	MaxKeywords      = 64  // on one message
	MaxKeywordLength = 100 // octets
)

// A SystemFlags is a set of the system flags of RFC 9051 section 2.3.2. The bits
// are stored: do not renumber.
type SystemFlags uint8

const (
	Seen SystemFlags = 1 << iota
	Answered
	Flagged
	Deleted
	Draft
)

// Flags are the permanent flags of one message.
type Flags struct {
	System   SystemFlags
	Keywords []string // as first written; sorted without regard to case, no two equal so; nil for none
}

// NewFlags returns the set of system flags and keywords, sorted, each once.
// It keeps no reference to keywords.
func NewFlags(system SystemFlags, keywords ...string) Flags {
	f := Flags{System: system}
	for _, k := range keywords {
		f.addKeyword(k)
	}
	return f
}

func (f *Flags) addKeyword(k string) {
	i, found := slices.BinarySearchFunc(f.Keywords, k, compareFold)
	if !found {
		f.Keywords = slices.Insert(f.Keywords, i, k)
	}
}

func compareFold(a, b string) int {
	return strings.Compare(strings.ToLower(a), strings.ToLower(b))
}

// Has reports whether f holds keyword k, whatever its case.
func (f Flags) Has(k string) bool {
	_, found := slices.BinarySearchFunc(f.Keywords, k, compareFold)
	return found
}

// Equal reports whether f and g are the same set.
func (f Flags) Equal(g Flags) bool {
	return f.System == g.System && slices.EqualFunc(f.Keywords, g.Keywords, strings.EqualFold)
}

// With returns f and g together. Neither is changed.
func (f Flags) With(g Flags) Flags {
	out := Flags{System: f.System | g.System, Keywords: slices.Clone(f.Keywords)}
	for _, k := range g.Keywords {
		out.addKeyword(k)
	}
	return out
}

// Without returns f less g. Neither is changed.
func (f Flags) Without(g Flags) Flags {
	out := Flags{System: f.System &^ g.System}
	for _, k := range f.Keywords {
		if !g.Has(k) {
			out.Keywords = append(out.Keywords, k)
		}
	}
	return out
}
