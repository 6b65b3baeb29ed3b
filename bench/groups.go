package bench

import (
	"bufio"
	"io"
	"slices"
	"strings"

	"github.com/covey-mail/covey"
)

// Bounds of what names the groups of users.
const (
	maxGroups    = 4096 // as many as a cluster may have shards
	maxLabel     = 40   // bytes
	maxGroupLine = 4096
)

// ReadGroups reads the labels of addresses: a line for each, of which the first
// two words count, so that the table of covey user list is such a file. An error
// of the file is of Kind Invalid.
func ReadGroups(r io.Reader) (map[string]string, error) {
	of := make(map[string]string)
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxGroupLine)
	for n := 1; lines.Scan(); n++ {
		f := strings.Fields(lines.Text())
		switch {
		case len(f) == 0:
		case len(f) == 1:
			return nil, covey.Errorf(covey.Invalid, "line %d of the groups: want an address and a label", n)
		case len(of) >= maxUsers:
			return nil, covey.Errorf(covey.Invalid, "line %d of the groups: more addresses than a run may have users", n)
		default:
			of[f[0]] = f[1]
		}
	}
	if err := lines.Err(); err != nil {
		return nil, covey.Errorf(covey.Invalid, "groups: %v", err)
	}
	return of, nil
}

// labelled returns the labels that users have, in the order of their numbers if
// they are such, and of each user the place of his in that list, -1 for none.
func (u *users) labelled(groups map[string]string, count int) (labels []string, of []int32) {
	if len(groups) == 0 {
		return nil, nil
	}
	place := make(map[string]int32)
	of = make([]int32, count)
	for i := range of {
		label, ok := groups[u.address(i)]
		if ok {
			place[label] = 0
		}
	}
	for label := range place {
		labels = append(labels, label)
	}
	slices.SortFunc(labels, inOrder)
	for i, label := range labels {
		place[label] = int32(i)
	}
	for i := range of {
		of[i] = -1
		if label, ok := groups[u.address(i)]; ok {
			of[i] = place[label]
		}
	}
	return labels, of
}

// inOrder sorts numbers by value, as labels mostly are, and others as text.
func inOrder(a, b string) int {
	if len(a) != len(b) && digits(a) && digits(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

func digits(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
}

// checkGroups says what is wrong with the groups of a run.
func (c *Config) checkGroups() error {
	if len(c.Only) > 0 && len(c.Groups) == 0 {
		return covey.Errorf(covey.Invalid, "say of which group each user is, if only some are to be used")
	}
	labels, _ := newNames(*c).labelled(c.Groups, c.Users)
	if len(c.Groups) > 0 && len(labels) == 0 {
		return covey.Errorf(covey.Invalid, "the groups name none of the users, such as %s", expand(c.UserPattern, 0))
	}
	if len(labels) > maxGroups {
		return covey.Errorf(covey.Invalid, "%d groups: at most %d", len(labels), maxGroups)
	}
	for _, l := range labels {
		if len(l) > maxLabel || l != printable(l) {
			return covey.Errorf(covey.Invalid, "the label %q is longer than %d characters, or not all ASCII", l, maxLabel)
		}
	}
	for _, l := range c.Only {
		if !slices.Contains(labels, l) {
			return covey.Errorf(covey.Invalid, "no user is of the group %q", l)
		}
	}
	return nil
}

// picked returns the users that operations go to, nil for all.
func (u *users) picked(c *Config) []int {
	if len(c.Only) == 0 {
		return nil
	}
	labels, of := u.labelled(c.Groups, c.Users)
	var pick []int
	for i, g := range of {
		if g >= 0 && slices.Contains(c.Only, labels[g]) {
			pick = append(pick, i)
		}
	}
	return pick
}
