package storage

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage/seglog"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// entry is c as the log would hand it on.
func entry(index uint64, c Command) seglog.Command {
	data := Encode(c)
	return seglog.Command{
		Index: index, Data: data,
		Place: seglog.Extent{Segment: 1, Offset: uint32(index) << 12, Length: uint32(len(data))},
	}
}

func TestApplyDeliver(t *testing.T) {
	type changed struct {
		Account covey.AccountID
		Mailbox covey.MailboxID
	}
	var told []changed
	s := OpenMemory(Config{Changed: func(a covey.AccountID, m covey.MailboxID) { told = append(told, changed{a, m}) }})
	defer s.Close()
	body := []byte("Subject: x\r\n\r\nhello\r\n")
	e := entry(7, Deliver{
		ID: covey.DeliveryID{Node: 1, Boot: 1, Seq: 1}, Time: noon,
		Recipients: []Recipient{{Account: 5, Mailbox: "INBOX", Prefix: []byte("Delivered-To: a@b\r\n")}},
		Summary:    []byte("sum"), Body: Body{Inline: body, Size: int64(len(body))},
	})
	r := s.Apply([]seglog.Command{e})[0].(*Result)
	want := &Result{Placed: []Placed{{Mailbox: 1, UIDValidity: uint32(noon.Unix()), UID: 1}}}
	if d := cmp.Diff(want, r); d != "" {
		t.Errorf("result (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]changed{{5, 1}}, told); d != "" {
		t.Errorf("changes told (-want +got):\n%s", d)
	}
	got, err := s.Body(7)
	off := e.Place.Offset + e.Place.Length - uint32(len(body))
	if d := cmp.Diff([]seglog.Extent{{Segment: 1, Offset: off, Length: uint32(len(body)), Sum: checksum(body)}}, got); d != "" || err != nil {
		t.Errorf("body (-want +got), error %v:\n%s", err, d)
	}
}
