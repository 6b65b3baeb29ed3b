package directory

import (
	"encoding/binary"
	"hash/maphash"

	"github.com/covey-mail/covey"
)

// An entry is what there is under one address.
type entry struct {
	kind    entryKind
	account Account // its Address is not in a book: whoever asks has it
}

type entryKind byte

const (
	nothing entryKind = iota
	anAccount
	anAlias // where it leads is not in a book
)

// bookParts is how many parts a book has. Each grows on its own, so that no change
// of one entry copies more than a few hundred kilobytes.
const bookParts = 256

// A book holds entries by address, packed: some 45 octets for an account with a
// local part of ten, and no pointer for the collector to follow. A local part is in
// it as it is, so what it answers does not hang on a hash. The zero book is empty,
// and is made by newBook. Not safe for concurrent use.
type book struct {
	seed  maphash.Seed
	parts [bookParts]part
	n     int // entries
	bytes int // taken by the parts
}

// A part is a hash table with linear probing. A slot is 0 or the lower half of a
// hash above the place of a record in text, plus one.
//
// A record is the domain's id, length and octets of the local part, kind; of an
// account id, shard, quota, time and disabled: numbers as varints.
type part struct {
	slots []uint64 // a power of two, or none
	n     int
	text  []byte
	waste int // octets of text that no slot leads to
}

func newBook() *book { return &book{seed: maphash.MakeSeed()} }

// hash returns the part of an address and the lower half of its hash.
func (b *book) hash(domain int64, local string) (*part, uint32) {
	h := (maphash.String(b.seed, local) ^ uint64(domain)) * 0x9e3779b97f4a7c15
	h ^= h >> 32
	return &b.parts[h>>56], uint32(h)
}

// get returns the entry of an address.
func (b *book) get(domain int64, local string) (entry, bool) {
	p, h := b.hash(domain, local)
	i, ok := p.find(h, domain, local)
	if !ok {
		return entry{}, false
	}
	r := p.record(i)
	r.skipAddress()
	return r.entry(), true
}

// set makes e the entry of an address.
func (b *book) set(domain int64, local string, e entry) {
	p, h := b.hash(domain, local)
	before := p.size()
	i, ok := p.find(h, domain, local)
	if ok {
		p.waste += p.length(i)
	} else {
		i = p.add(h)
		b.n++
	}
	p.slots[i] = uint64(h)<<32 | uint64(len(p.text)+1)
	p.text = appendRecord(p.roomFor(local), domain, local, e)
	p.tidy()
	b.bytes += p.size() - before
}

// drop removes the entry of an address, if there is one.
func (b *book) drop(domain int64, local string) {
	p, h := b.hash(domain, local)
	i, ok := p.find(h, domain, local)
	if !ok {
		return
	}
	before := p.size()
	p.waste += p.length(i)
	p.remove(i)
	p.tidy()
	b.n--
	b.bytes += p.size() - before
}

// size is how much memory the part takes.
func (p *part) size() int { return 8*len(p.slots) + cap(p.text) }

// find returns the slot of an address, and whether it is there.
func (p *part) find(h uint32, domain int64, local string) (int, bool) {
	if len(p.slots) == 0 {
		return 0, false
	}
	mask := len(p.slots) - 1
	for i := int(h) & mask; p.slots[i] != 0; i = (i + 1) & mask {
		if uint32(p.slots[i]>>32) != h {
			continue
		}
		if r := p.record(i); r.isFor(domain, local) {
			return i, true
		}
	}
	return 0, false
}

// add returns a free slot for an entry more.
func (p *part) add(h uint32) int {
	if (p.n+1)*5 > len(p.slots)*4 {
		old := p.slots
		p.slots = make([]uint64, max(16, 2*len(old)))
		for _, s := range old {
			if s != 0 {
				p.slots[p.free(uint32(s>>32))] = s
			}
		}
	}
	p.n++
	return p.free(h)
}

func (p *part) free(h uint32) int {
	mask := len(p.slots) - 1
	i := int(h) & mask
	for p.slots[i] != 0 {
		i = (i + 1) & mask
	}
	return i
}

// remove empties a slot, and moves what was put behind it for want of it.
func (p *part) remove(i int) {
	p.n--
	mask := len(p.slots) - 1
	for j := (i + 1) & mask; p.slots[j] != 0; j = (j + 1) & mask {
		home := int(p.slots[j]>>32) & mask
		if (j-home)&mask >= (j-i)&mask {
			p.slots[i], i = p.slots[j], j
		}
	}
	p.slots[i] = 0
}

// roomFor returns text with room for a record more. It grows by a quarter, as all
// parts have something to spare at the same time.
func (p *part) roomFor(local string) []byte {
	need := len(p.text) + len(local) + maxRecord
	if need <= cap(p.text) {
		return p.text
	}
	text := make([]byte, len(p.text), need+len(p.text)/4)
	copy(text, p.text)
	return text
}

// tidy drops what is not in use once that is most of it.
func (p *part) tidy() {
	if p.waste <= 1024 || p.waste <= len(p.text)/2 {
		return
	}
	text := make([]byte, 0, len(p.text)-p.waste)
	for i, s := range p.slots {
		if s != 0 {
			at := int(uint32(s)) - 1
			p.slots[i] = s>>32<<32 | uint64(len(text)+1)
			text = append(text, p.text[at:at+p.lengthAt(at)]...)
		}
	}
	p.text, p.waste = text, 0
}

// length is that of a slot's record.
func (p *part) length(i int) int { return p.lengthAt(int(uint32(p.slots[i])) - 1) }

func (p *part) lengthAt(at int) int {
	r := record{p.text[at:]}
	r.skipAddress()
	r.entry()
	return len(p.text) - at - len(r.b)
}

func (p *part) record(i int) record { return record{p.text[uint32(p.slots[i])-1:]} }

// maxRecord bounds a record without its local part.
const maxRecord = 7*binary.MaxVarintLen64 + 2

func appendRecord(b []byte, domain int64, local string, e entry) []byte {
	b = binary.AppendUvarint(b, uint64(domain))
	b = binary.AppendUvarint(b, uint64(len(local)))
	b = append(b, local...)
	b = append(b, byte(e.kind))
	if e.kind != anAccount {
		return b
	}
	b = binary.AppendUvarint(b, uint64(e.account.ID))
	b = binary.AppendUvarint(b, uint64(e.account.Shard))
	b = binary.AppendVarint(b, e.account.Quota)
	b = binary.AppendVarint(b, e.account.Created.Unix())
	if e.account.Disabled {
		return append(b, 1)
	}
	return append(b, 0)
}

// A record is read from the front of text.
type record struct{ b []byte }

func (r *record) uint() uint64 {
	v, n := binary.Uvarint(r.b)
	r.b = r.b[n:]
	return v
}

func (r *record) int() int64 {
	v, n := binary.Varint(r.b)
	r.b = r.b[n:]
	return v
}

// isFor reports whether the record is that of an address.
func (r *record) isFor(domain int64, local string) bool {
	if r.uint() != uint64(domain) {
		return false
	}
	n := r.uint()
	return n == uint64(len(local)) && string(r.b[:n]) == local
}

func (r *record) skipAddress() {
	r.uint()
	n := r.uint()
	r.b = r.b[n:]
}

// entry reads what follows the address.
func (r *record) entry() entry {
	e := entry{kind: entryKind(r.b[0])}
	r.b = r.b[1:]
	if e.kind != anAccount {
		return e
	}
	e.account = Account{
		ID: covey.AccountID(r.uint()), Shard: covey.ShardID(r.uint()), Quota: r.int(), Created: unixTime(r.int()), Disabled: r.b[0] != 0,
	}
	r.b = r.b[1:]
	return e
}
