// Package message reads a mail message once, as it comes in at the door, and
// keeps what mailbox sessions ask for later: envelope, MIME structure with
// offsets, sizes, a preview. The Summary is stored beside the message, so that
// FETCH and SEARCH mostly need no message bytes at all, and where they do, know
// which.
//
// Everything here is pure: no I/O but reading what is given, no clock, no
// goroutine, no state. Foreign bytes never make it panic and never cost more
// than linear time. It decodes transfer encodings and character sets; it never
// expands archives, TNEF, calendars or any other content.
//
// # What a message is
//
// Lines end in LF, with or without CR. The header goes up to the first empty
// line; without one all is header. A multipart's delimiter is a whole line, but
// for white space at its end; an inner delimiter is looked for before an outer
// one, an outer one ends all within it. A multipart whose delimiter never comes
// has one text/plain part that covers its body, so that it always has a part and
// its content can be read. Of repeated fields the first counts, but address
// fields add up.
//
// # Limits
//
// Parse holds its buffers (16 KiB of input, one field of up to 64 KiB) and the
// Summary. Of a header block 1 MiB is looked at, of a field 64 KiB. A tree is at
// most 100 deep and has at most 10,000 parts; what lies deeper or comes later is
// one application/octet-stream. A Summary holds at most 1,000 addresses, 64
// parameters per field and 64 KiB of text, and encodes to at most 256 KiB. Where
// a limit cut something off, the Truncated flag says so.
//
// # Encoding
//
// Encode writes version 1, values as package wire writes them:
//
//	octet version, 1
//	uint size, uint lines, uint longest line, uint flags
//	uint Received fields, uint From fields
//	count and strings: Delivered-To
//	string preview
//	envelope, part
//
//	envelope: uint mask; for each bit from the lowest its field: the strings
//	          date, subject, in-reply-to, message-id; the lists from, sender,
//	          reply-to, to, cc, bcc: count and name, mailbox, host of each
//	part:     uint mask: 1 media type in words, 2 encoding in words, 4 parameters,
//	          8 rare fields; uint code or string media type, the same for the
//	          transfer encoding; uint distance of the header from where the part
//	          before it ended, uint header size, uint body size, uint lines;
//	          parameters: count and name, value of each
//	          rare fields: strings id, description, location, md5, disposition,
//	          its parameters, count and strings languages
//	          multipart/*: count and parts; message/rfc822 and message/global:
//	          envelope and part
package message

// Limits on what Parse looks at and a Summary holds.
const (
	MaxHeader      = 1 << 20   // octets of a header block that are looked at
	MaxDepth       = 100       // parts on the way from the root to a leaf
	MaxParts       = 10_000    // parts in all; up to MaxDepth more take in the rest
	MaxAddresses   = 1_000     // addresses in all envelopes together
	MaxParams      = 64        // parameters of one field
	MaxText        = 64 << 10  // octets of all strings, each counted with 3 octets more
	MaxEncoded     = 256 << 10 // octets of an encoded Summary
	MaxDeliveredTo = 100       // Delivered-To fields kept
	MaxPreview     = 200       // octets of the preview

	maxField    = 64 << 10 // octets of one field's value
	maxString   = 4 << 10  // octets of one kept string
	maxID       = 998      // octets of one message id
	maxBoundary = 2048     // octets of a delimiter; a longer one never matches
)

// Flags tell what Parse met in a message. The bits are stored: do not renumber.
type Flags uint16

const (
	HasNUL         Flags = 1 << iota // an octet 0
	BareCR                           // a CR without LF behind it
	BareLF                           // a LF without CR before it
	EightBitHeader                   // an octet above 127 in the header of the message or a part
	EightBitBody                     // one elsewhere
	BadHeader                        // a header line that is neither field nor continuation
	UnclearFrom                      // From does not read the same to everyone
	Truncated                        // a limit cut off something of what a Summary could hold
)

// A Summary is what is kept about a message. It describes the bytes given to
// Parse: without the lines that were put in front for one recipient (the prefix).
// It is not changed after Parse or Decode and may be read by several goroutines.
type Summary struct {
	Size        int64
	Lines       int64 // line feeds
	LongestLine int64 // octets without line end
	Flags       Flags
	Received    int      // fields of that name
	FromFields  int      // fields of that name
	DeliveredTo []string // values, at most MaxDeliveredTo
	Preview     string   // start of the first text, on one line, at most MaxPreview octets of UTF-8
	Header      Envelope
	Root        *Part // the message itself; not nil
}

// HeaderSize returns the octets of the header with its empty line.
func (s *Summary) HeaderSize() int64 { return s.Root.HeaderSize }

// An Envelope holds the fields of one header that IMAP's ENVELOPE consists of.
// Its strings are unfolded and valid UTF-8 without control characters; encoded
// words (RFC 2047) are left as they are.
type Envelope struct {
	Date      string
	Subject   string
	From      []Address
	Sender    []Address
	ReplyTo   []Address
	To        []Address
	Cc        []Address
	Bcc       []Address
	InReplyTo string
	MessageID string
}

// An Address is one element of an address list. A group is an element with
// Mailbox as its name and no Host, its members, and an empty element.
type Address struct {
	Name    string
	Mailbox string
	Host    string
}

// A Part is one node of a message's structure.
type Part struct {
	Media    string // type/subtype in lower case; text/plain if none is given
	Encoding string // transfer encoding in lower case; empty if none is given
	Params   []Param
	Rare     *Rare // nil if none of it is given

	HeaderOffset int64 // from the start of the message, without prefix
	HeaderSize   int64 // with the empty line
	BodySize     int64
	Lines        int64 // line feeds in the body

	Parts   []*Part   // of multipart/*, at least one; else nil
	Message *Embedded // of message/rfc822 and message/global; else nil
}

// BodyOffset returns where the part's body starts, without prefix.
func (p *Part) BodyOffset() int64 { return p.HeaderOffset + p.HeaderSize }

// end returns the offset behind the part.
func (p *Part) end() int64 { return p.HeaderOffset + p.HeaderSize + p.BodySize }

// A Rare holds the fields that most parts do not have.
type Rare struct {
	ID                string
	Description       string
	Location          string
	MD5               string
	Disposition       string
	DispositionParams []Param
	Language          []string
}

// A Param is a parameter of Content-Type or Content-Disposition. Segments
// (RFC 2231) are joined; a name that ends in * has a value that is still
// percent-encoded, with its character set in front.
type Param struct {
	Name  string // lower case
	Value string
}

// An Embedded is a message within a message.
type Embedded struct {
	Header Envelope
	Root   *Part
}

// param returns the value of a parameter, empty if it is not there.
func param(ps []Param, name string) string {
	for i := range ps {
		if ps[i].Name == name {
			return ps[i].Value
		}
	}
	return ""
}
