//go:build !linux

package serve

import "errors"

// Unsent is known on Linux only; elsewhere it is an error, so that nobody takes
// a reply for received on its word.
func (c *Conn) Unsent() (int, error) { return 0, errors.ErrUnsupported }

// Here is known on Linux only.
func (c *Conn) Here() bool { return false }
