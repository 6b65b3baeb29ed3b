package logon

import (
	"net/netip"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/wire"
)

// News is what a node tells the others of one try to log in, so that who guesses
// at several nodes is counted as one, and who is known at one is known at all.
type News struct {
	From  netip.Prefix // the address of IPv4, the /64 of IPv6; invalid: none was known
	User  string       // as failures are counted; at most MaxNewsUser octets
	Right bool         // From is known to User from now on; else the try failed
}

// MaxNewsUser is the most octets of News.User. Longer names are nobody's, and are
// cut to less.
const MaxNewsUser = 4 * maxName // a name that is quoted grows

// MaxNews bounds the news in one message.
const MaxNews = 4096

const newsVersion = 1

// AppendNews appends a message of news, at most MaxNews of them, to b.
//
//	0  1  version, 1
//	1     varint: number of
//	      1 octet: 1 if the try was right; byte strings: address (netip.Addr, 0, 4 or 16 octets), user
func AppendNews(b []byte, news []News) []byte {
	b = wire.AppendUint(append(b, newsVersion), uint64(len(news)))
	for _, n := range news {
		var addr []byte
		if n.From.IsValid() {
			addr = n.From.Addr().AsSlice()
		}
		b = wire.AppendBytes(wire.AppendBool(b, n.Right), addr)
		b = wire.AppendBytes(b, n.User)
	}
	return b
}

// ParseNews is the inverse of AppendNews. What it returns is within the limits.
func ParseNews(b []byte) ([]News, error) {
	r := wire.NewReader(b)
	if r.Byte() != newsVersion {
		r.Fail("unknown version of news")
	}
	count := r.Count(3)
	if count > MaxNews {
		r.Fail("number of news")
	}
	var news []News
	for range count {
		n := News{Right: r.Bool()}
		addr := r.Bytes()
		n.User = r.String()
		if r.Err() != nil {
			break
		}
		if len(addr) > 0 {
			a, ok := netip.AddrFromSlice(addr)
			if !ok {
				r.Fail("address of news")
			}
			n.From = origin(a)
		}
		if len(n.User) > MaxNewsUser {
			r.Fail("user of news")
		}
		news = append(news, n)
	}
	if err := r.End(); err != nil {
		return nil, covey.Errorf(covey.Invalid, "news of log-ins: %w", err)
	}
	return news, nil
}

// Hear counts what happened on another node as if it had happened here, now. It
// does not tell of it again.
func (s *Service) Hear(news []News) {
	now := s.cfg.Now()
	for _, n := range news {
		s.limits.hear(pair{n.From, n.User}, n.Right, now)
	}
}

// tell passes on what happened here.
func (s *Service) tell(p pair, right bool) {
	if s.cfg.Tell != nil {
		s.cfg.Tell(News{From: p.from, User: p.user, Right: right})
	}
}

// hear counts the try of another node.
func (l *limits) hear(p pair, right bool, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if right {
		w := load(l.known, p, l.knownWindow())
		w.told = now
		return
	}
	l.open(p).count(now)
}
