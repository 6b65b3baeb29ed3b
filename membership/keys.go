package membership

import (
	"bytes"
	"slices"

	"github.com/hashicorp/memberlist"

	"github.com/covey-mail/covey"
)

const keySize = 32

func validateKeys(keys [][]byte) error {
	if len(keys) == 0 || len(keys) > 2 {
		return covey.Errorf(covey.Invalid, "gossip: %d keys, want one or two", len(keys))
	}
	for _, k := range keys {
		if len(k) != keySize {
			return covey.Errorf(covey.Invalid, "gossip: key of %d octets, want %d", len(k), keySize)
		}
	}
	return nil
}

// install makes keys the contents of ring. Keys are taken out from the end only:
// memberlist decrypts with a list that RemoveKey overwrites in place otherwise.
// For a moment the second key may be missing; a packet may be lost then.
func install(ring *memberlist.Keyring, keys [][]byte) error {
	if err := validateKeys(keys); err != nil {
		return err
	}
	first := bytes.Clone(keys[0])
	if err := ring.AddKey(first); err != nil {
		return err
	}
	if err := ring.UseKey(first); err != nil {
		return err
	}
	for _, k := range slices.Backward(ring.GetKeys()[1:]) {
		if err := ring.RemoveKey(k); err != nil {
			return err
		}
	}
	for _, k := range keys[1:] {
		if err := ring.AddKey(bytes.Clone(k)); err != nil {
			return err
		}
	}
	return nil
}
