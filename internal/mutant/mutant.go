// Package mutant plants bugs, so that the tests of whole clusters can show that
// they would find them (`make mutants`). Only a program built with the tag mutant
// can have one, and only the one that the linker is told to set:
//
//	go build -tags mutant -ldflags "-X github.com/covey-mail/covey/internal/mutant.planted=log-sync"
//
// In every other program Is is false at compile time, and nothing is left of the
// lines that ask for it.
package mutant

// A Bug is the name of one.
type Bug string

// The bugs that can be planted, each a mistake that a mail server or a replicated
// store has made.
const (
	LogSync     Bug = "log-sync"      // the log is never synced
	FullDisk    Bug = "full-disk"     // what did not fit on the disk is taken for written
	EarlyAppend Bug = "early-append"  // a follower promises an entry before it is on its disk
	QuorumOfOne Bug = "quorum-of-one" // a leader's own disk is enough to acknowledge
	LocalRead   Bug = "local-read"    // a reader does not ask whether there is a newer leader
	SkipCommand Bug = "skip-command"  // a follower passes over a command now and then
	ApplyTwice  Bug = "apply-twice"   // the applied index lags behind what was committed with it
	LocalUID    Bug = "local-uid"     // a replica skips UIDs by its own clock
	Validity    Bug = "uidvalidity"   // UIDVALIDITY is made anew with each start
	NoDedupe    Bug = "no-dedupe"     // a delivery that is sent again is stored again
	EmptyCopy   Bug = "empty-copy"    // a copy of a state has other bytes for its bodies
	EarlyQuit   Bug = "early-quit"    // POP3 says that messages are deleted whether they are or not
)

// Poison is no mistake to be found but a fault to be borne: a delivery whose
// subject has PoisonWord in it panics on every replica. It is not among All.
const Poison Bug = "poison"

// PoisonWord is what Poison looks for.
const PoisonWord = "arsenic-and-old-lace"

// All returns every bug.
func All() []Bug {
	return []Bug{
		Validity, LocalUID, NoDedupe, QuorumOfOne, SkipCommand, ApplyTwice, LogSync,
		EarlyAppend, LocalRead, FullDisk, EmptyCopy, EarlyQuit,
	}
}
