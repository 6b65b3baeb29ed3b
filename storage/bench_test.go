package storage_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage"
	"github.com/covey-mail/covey/storage/seglog"
)

// written returns how many bytes this process has sent to the disk, 0 where
// that is not known.
func written(b *testing.B) float64 {
	data, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(data), "write_bytes: ")
	n, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// deliveries makes deliveries of small messages with ascending indexes. Encoding is
// not measured: another node may have done it.
func deliveries() func(n int, account func(i int) covey.AccountID) []seglog.Command {
	body, summary := make([]byte, 8<<10), make([]byte, 600)
	index := uint64(0)
	return func(n int, account func(i int) covey.AccountID) []seglog.Command {
		list := make([]seglog.Command, n)
		for i := range list {
			index++
			c := storage.Deliver{
				ID: covey.DeliveryID{Node: 1, Boot: 1, Seq: index}, Time: noon, Hash: [16]byte{1, byte(index), byte(index >> 8), byte(index >> 16)},
				Recipients: []storage.Recipient{{Account: account(i), Mailbox: "INBOX", Prefix: []byte("Delivered-To: someone@example.org\r\n")}},
				Confirmed:  []covey.DeliveryID{{Node: 1, Boot: 1, Seq: index - 1}},
				Summary:    summary, Body: storage.Body{Inline: body, Size: int64(len(body))},
			}
			data := storage.Encode(c)
			list[i] = seglog.Command{Index: index, Data: data, Place: seglog.Extent{Segment: index >> 13, Offset: 64, Length: uint32(len(data))}}
		}
		return list
	}
}

// applyAll measures what next returns, up to 1,000 commands at a time, and the
// checkpoint behind.
func applyAll(b *testing.B, s storage.State, next func(n int) []seglog.Command) {
	before := written(b)
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; {
		b.StopTimer()
		list := next(min(1000, b.N-done))
		b.StartTimer()
		s.Apply(list)
		done += len(list)
	}
	if _, err := s.Checkpoint(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric((written(b)-before)/float64(b.N), "disk-B/op")
}

// BenchmarkApplyDeliver delivers to 50,000 accounts in no order.
func BenchmarkApplyDeliver(b *testing.B) {
	s, err := storage.Open(storage.Config{Shard: 1, Path: filepath.Join(b.TempDir(), "shard")})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	rnd := rand.New(rand.NewPCG(1, 2))
	prepare := deliveries()
	const accounts = 50000
	for first := 0; first < accounts; first += 1000 {
		s.Apply(prepare(1000, func(i int) covey.AccountID { return covey.AccountID(first + i + 1) }))
	}
	if _, err := s.Checkpoint(); err != nil {
		b.Fatal(err)
	}
	applyAll(b, s, func(n int) []seglog.Command {
		return prepare(n, func(int) covey.AccountID { return covey.AccountID(rnd.IntN(accounts) + 1) })
	})
}

// BenchmarkApplyFirst delivers to accounts that nothing was delivered to before,
// those of one shard of sixteen, in no order.
func BenchmarkApplyFirst(b *testing.B) {
	s, err := storage.Open(storage.Config{Shard: 1, Path: filepath.Join(b.TempDir(), "shard")})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	prepare := deliveries()
	const accounts, step = 1 << 20, 648_391 // each comes once before any comes again
	n := 0
	applyAll(b, s, func(count int) []seglog.Command {
		return prepare(count, func(int) covey.AccountID { n++; return covey.AccountID(n*step%accounts*16 + 1) })
	})
}

// BenchmarkMessages reads twenty summaries from one of many mailboxes.
func BenchmarkMessages(b *testing.B) {
	s, err := storage.Open(storage.Config{Shard: 1, Path: filepath.Join(b.TempDir(), "shard")})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	const accounts, each = 500, 40
	for i := range uint64(accounts * each) {
		c := storage.Deliver{
			ID: covey.DeliveryID{Node: 1, Boot: 1, Seq: i}, Time: noon, Confirmed: []covey.DeliveryID{{Node: 1, Boot: 1, Seq: i - 1}},
			Recipients: []storage.Recipient{{Account: covey.AccountID(i%accounts + 1), Mailbox: "INBOX"}},
			Summary:    make([]byte, 600), Body: storage.Body{Inline: []byte("x"), Size: 1},
		}
		s.Apply([]seglog.Command{{Index: i + 1, Data: storage.Encode(c)}})
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		n := 0
		q := storage.Query{Mailbox: covey.MailboxID(i%accounts + 1), UIDs: []storage.UIDRange{{First: each - 19, Last: each}}, Summary: true}
		err := s.Messages(b.Context(), q, func(*storage.Message) error { n++; return nil })
		if err != nil || n != 20 {
			b.Fatalf("%d messages, error %v", n, err)
		}
	}
}

// BenchmarkView opens a mailbox and reads its newest twenty messages, the last of
// which is the only one unseen.
func BenchmarkView(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			s, err := storage.Open(storage.Config{Shard: 1, Path: filepath.Join(b.TempDir(), "shard")})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			last := covey.UID(n)
			for i := range uint64(n) {
				c := storage.Append{Account: 1, Mailbox: storage.Inbox, Summary: make([]byte, 600), Body: storage.Body{Inline: []byte("x"), Size: 1}}
				if i < uint64(n)-1 {
					c.Flags.System = covey.Seen
				}
				s.Apply([]seglog.Command{{Index: i + 1, Data: storage.Encode(c)}})
			}
			b.ReportAllocs()
			for b.Loop() {
				box, uids, unseen, err := s.View(1, 1)
				if err != nil || len(uids) != 1 || unseen != last || box.Messages != uint32(n) {
					b.Fatalf("%+v, UIDs %v, first unseen %d, error %v", box, uids, unseen, err)
				}
				q := storage.Query{Mailbox: 1, UIDs: []storage.UIDRange{{First: last - 19, Last: last}}, Summary: true}
				if err := s.Messages(b.Context(), q, func(*storage.Message) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
