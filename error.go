package covey

import (
	"errors"
	"fmt"
)

// A Kind classifies an error. The numbers travel between nodes: do not reorder
// or remove, add at the end.
type Kind uint8

const (
	Internal    Kind = iota // a fault of ours; never shown to a peer in detail
	Invalid                 // the request itself is malformed
	NotFound                // what the request names does not exist
	Exists                  // what the request would create exists
	Denied                  // the caller may not do this
	OverQuota               // the account's quota forbids it
	TooBig                  // larger than a limit allows
	Limit                   // too many, too fast or too deep
	InUse                   // held by another session
	Unavailable             // definitely not done; may work later (no quorum, stopping)
	Unknown                 // may or may not have been done; ask again under the same id
	DiskFull                // no room for new data; reading and deleting work
	Corrupt                 // stored bytes do not match their checksum
	Conflict                // changed meanwhile (UNCHANGEDSINCE and the like)
	Loop                    // the message has been here before
	numKinds
)

var kindNames = [numKinds]string{
	"internal error", "invalid", "not found", "already exists", "denied", "over quota",
	"too big", "limit exceeded", "in use", "unavailable", "outcome unknown", "disk full",
	"corrupt", "conflict", "loop",
}

// String returns a short lower-case phrase.
func (k Kind) String() string {
	if k >= numKinds {
		return fmt.Sprintf("kind %d", uint8(k))
	}
	return kindNames[k]
}

// Temporary reports whether the same request may succeed later without anyone
// changing it.
func (k Kind) Temporary() bool {
	switch k {
	case Internal, OverQuota, Limit, InUse, Unavailable, Unknown, DiskFull, Corrupt:
		return true
	}
	return false
}

// Error implements error, so that a Kind serves as the target of errors.Is:
// errors.Is(err, covey.NotFound).
func (k Kind) Error() string { return k.String() }

// An Error carries a Kind. Its text is for operators and logs; front ends map
// the Kind, not the text, to a reply.
type Error struct {
	Kind Kind
	Err  error // what went wrong; not nil
}

// Error implements error.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is this error's Kind.
func (e *Error) Is(target error) bool {
	k, ok := target.(Kind)
	return ok && k == e.Kind
}

// Errorf makes an Error of kind k; %w wraps as in fmt.Errorf.
func Errorf(k Kind, format string, args ...any) error {
	return &Error{Kind: k, Err: fmt.Errorf(format, args...)}
}

// KindOf returns the Kind that err carries, Internal if it carries none. err
// must not be nil.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	var k Kind
	if errors.As(err, &k) {
		return k
	}
	return Internal
}
