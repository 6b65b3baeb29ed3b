package seglog

import "github.com/covey-mail/covey/internal/mutant"

// syncFile puts a segment's records on stable storage.
func syncFile(s *segment) error {
	if mutant.Is(mutant.LogSync) {
		return nil
	}
	return s.file.Sync()
}
