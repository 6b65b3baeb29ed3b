package message

import (
	"strings"
	"time"
)

// Years that a date is clamped to.
const (
	minYear = 1900
	maxYear = 9999
)

// Sent returns what the Date field says, in the zone that it names. ok is false
// without a date that makes sense. Years are clamped to 1900 … 9999.
func (e *Envelope) Sent() (t time.Time, ok bool) { return parseDate(e.Date) }

// parseDate reads a date-time of RFC 5322 section 3.3, with the obsolete forms
// of section 4.3, in one pass. The day of the week and everything behind the
// zone are not looked at.
func parseDate(s string) (time.Time, bool) {
	d := dateScanner{s: s}
	if c := d.peek(); c < '0' || c > '9' {
		d.word()
		d.accept(',')
	}
	day, _ := d.number()
	d.accept('-')
	month := monthOf(d.word())
	d.accept('-')
	year, digits := d.number()
	if digits == 0 || month == 0 || day < 1 || day > 31 {
		return time.Time{}, false
	}
	hour, _ := d.number()
	var minute, second int
	if d.accept(':') {
		minute, _ = d.number()
	}
	if d.accept(':') {
		second, _ = d.number()
	}
	if hour > 23 || minute > 59 || second > 60 {
		return time.Time{}, false
	}
	zone := d.zone()
	second = min(second, 59) // no leap seconds in a time.Time
	t := time.Date(fullYear(year, digits), month, day, hour, minute, second, 0, zone)
	if t.Day() != day { // 31 February
		return time.Time{}, false
	}
	return t, true
}

// fullYear reads years of two and three digits as RFC 5322 section 4.3 says, and
// clamps.
func fullYear(year, digits int) int {
	switch {
	case digits <= 2 && year < 50:
		year += 2000
	case digits <= 3 && year < 1000:
		year += 1900
	}
	return max(minYear, min(maxYear, year))
}

func monthOf(s string) time.Month {
	const names = "janfebmaraprmayjunjulaugsepoctnovdec"
	if len(s) < 3 {
		return 0
	}
	for m := range 12 {
		if strings.EqualFold(names[3*m:3*m+3], s[:3]) {
			return time.Month(m + 1)
		}
	}
	return 0
}

type dateScanner struct {
	s string
	i int
}

// peek goes over white space and comments and returns the next octet, 0 at the
// end.
func (d *dateScanner) peek() byte {
	depth := 0
	for ; d.i < len(d.s); d.i++ {
		switch c := d.s[d.i]; {
		case c == '(':
			depth++
		case c == ')' && depth > 0:
			depth--
		case c != ' ' && c != '\t' && depth == 0:
			return c
		}
	}
	return 0
}

func (d *dateScanner) accept(c byte) bool {
	if d.peek() != c {
		return false
	}
	d.i++
	return true
}

// number reads digits; a number too large for any field stays too large.
func (d *dateScanner) number() (n, digits int) {
	d.peek()
	for ; d.i < len(d.s) && '0' <= d.s[d.i] && d.s[d.i] <= '9'; d.i++ {
		n = min(n*10+int(d.s[d.i]-'0'), 1_000_000)
		digits++
	}
	return n, digits
}

func (d *dateScanner) word() string {
	d.peek()
	start := d.i
	for ; d.i < len(d.s) && (d.s[d.i]|0x20 >= 'a' && d.s[d.i]|0x20 <= 'z'); d.i++ {
	}
	return d.s[start:d.i]
}

// zone reads +hhmm, or a name; one that is unknown or cannot be is UTC.
func (d *dateScanner) zone() *time.Location {
	sign := 1
	switch d.peek() {
	case '-':
		sign = -1
		fallthrough
	case '+':
		d.i++
		n, digits := d.number()
		if digits != 4 || n/100 > 23 || n%100 > 59 || n == 0 {
			return time.UTC
		}
		return time.FixedZone("", sign*(n/100*3600+n%100*60))
	}
	hours := 0
	switch strings.ToUpper(d.word()) {
	case "EDT":
		hours = -4
	case "EST", "CDT":
		hours = -5
	case "CST", "MDT":
		hours = -6
	case "MST", "PDT":
		hours = -7
	case "PST":
		hours = -8
	default:
		return time.UTC
	}
	return time.FixedZone("", hours*3600)
}
