package pop3d

import (
	"strings"
	"testing"
)

// BenchmarkSession is a mail program's visit: log in, STAT, four messages of
// 8 KiB, QUIT.
func BenchmarkSession(b *testing.B) {
	s := newStand(b, nil)
	message := "From: a@example.org\r\nSubject: x\r\n\r\n" + strings.Repeat(strings.Repeat("x", 78)+"\r\n", 102)
	s.deliver(b, message, message, message, message)
	b.ReportAllocs()
	for b.Loop() {
		c := s.dial(b)
		c.talk(b, "< +OK …\n> USER alice\n< +OK …\n> PASS "+secret+"\n< +OK …\n> STAT\n< +OK …")
		for n := range 4 {
			c.send(b, "RETR "+string(rune('1'+n))+"\r\n")
			for line := []byte{}; string(line) != ".\r\n"; {
				var err error
				if line, err = c.r.ReadSlice('\n'); err != nil {
					b.Fatal(err)
				}
			}
		}
		c.talk(b, "> QUIT\n< +OK bye")
		c.Close()
	}
}
