package directory

import (
	"fmt"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory/password"
	"github.com/covey-mail/covey/internal/wire"
)

// The version is the first octet of every encoded command; the second is its type.
// Fields follow in the order of the struct, optional ones behind a boolean; times
// are Unix seconds. A command has the lowest version that holds all of it, so that
// what is in logs is written as it was.
const (
	version1 = 1
	version2 = 2 // nodes and the shard map
	version3 = 3 // stamps of disks
)

// The types are stored in the log: do not renumber.
const (
	typeFound byte = iota + 1
	typeAddDomain
	typeRemoveDomain
	typeAddAccounts
	typeRemoveAccount
	typeDropped
	typeSetAccount
	typeSetPassword
	typeSetAlias
	typeRemoveAlias
	typeSetSettings
	typeAddNode // this and the following: from version 2
	typeUpdateNode
	typeSetNodeState
	typeRemoveNode
	typeSetShardMap
	typeSetLevel
	typeStampNode // this and the following: from version 3
)

// Encode returns the form of c that travels and is logged.
func Encode(c Command) []byte {
	b := []byte{versionOf(c), 0}
	encode := encodeBody
	switch b[0] {
	case version2:
		encode = encodeBody2
	case version3:
		encode = encodeBody3
	}
	kind, b := encode(c, b)
	b[1] = kind
	return b
}

// versionOf returns the lowest version that holds all of c.
func versionOf(c Command) byte {
	switch c := c.(type) {
	case Found:
		if c.First == nil {
			return version1
		}
	case SetSettings:
		if c.Replicas == nil && c.RebuildAfter == nil {
			return version1
		}
	case AddNode, UpdateNode, SetNodeState, RemoveNode, SetShardMap, SetLevel:
	case StampNode:
		return version3
	default:
		return version1
	}
	return version2
}

// encodeBody appends the fields of version 1 to b and returns the type as well.
func encodeBody(c Command, b []byte) (byte, []byte) {
	switch c := c.(type) {
	case Found:
		return typeFound, wire.AppendUint(append(b, c.Cluster[:]...), uint64(c.Shards))
	case AddDomain:
		return typeAddDomain, appendTime(wire.AppendBytes(b, c.Name), c.Time)
	case RemoveDomain:
		return typeRemoveDomain, wire.AppendBytes(b, c.Name)
	case AddAccounts:
		return typeAddAccounts, c.append(b)
	case RemoveAccount:
		return typeRemoveAccount, appendTime(appendAddress(b, c.Address), c.Time)
	case Dropped:
		return typeDropped, wire.AppendUint(b, uint64(c.Account))
	case SetAccount:
		b = appendOptional(appendAddress(b, c.Address), c.Quota, wire.AppendInt)
		return typeSetAccount, appendOptional(b, c.Disabled, wire.AppendBool)
	case SetPassword:
		b = wire.AppendBytes(wire.AppendUint(b, uint64(c.Account)), c.Hash)
		return typeSetPassword, wire.AppendBytes(wire.AppendBytes(b, c.Verifier), c.Was)
	case SetAlias:
		return typeSetAlias, c.append(b)
	case RemoveAlias:
		return typeRemoveAlias, appendAddress(b, c.Address)
	case SetSettings:
		b = appendOptional(b, c.Quota, wire.AppendInt)
		return typeSetSettings, appendOptional(b, c.Postmaster, appendAddress)
	}
	panic(fmt.Errorf("directory: encode %T", c))
}

func (c AddAccounts) append(b []byte) []byte {
	b = wire.AppendUint(b, uint64(len(c.Accounts)))
	for _, a := range c.Accounts {
		b = wire.AppendBytes(appendAddress(b, a.Address), a.Hash)
		b = wire.AppendInt(wire.AppendBytes(b, a.Verifier), a.Quota)
	}
	return appendTime(wire.AppendBool(b, c.Update), c.Time)
}

func (c SetAlias) append(b []byte) []byte {
	b = wire.AppendUint(appendAddress(b, c.Address), uint64(len(c.Targets)))
	for _, t := range c.Targets {
		b = appendAddress(b, t)
	}
	return append(b, byte(c.Mode))
}

func appendAddress(b []byte, a covey.Address) []byte {
	return wire.AppendBytes(wire.AppendBytes(b, a.Local), a.Domain)
}

func appendTime(b []byte, t time.Time) []byte { return wire.AppendInt(b, t.Unix()) }

func appendOptional[T any](b []byte, v *T, appendValue func([]byte, T) []byte) []byte {
	b = wire.AppendBool(b, v != nil)
	if v != nil {
		b = appendValue(b, *v)
	}
	return b
}

// Decode is the inverse of Encode. What is malformed or beyond a limit is
// covey.Corrupt. The command keeps no reference to b.
func Decode(b []byte) (Command, error) {
	r := wire.NewReader(b)
	v, kind := r.Byte(), r.Byte()
	decode := decodeBody
	switch {
	case v == version2:
		decode = decodeBody2
	case v == version3:
		decode = decodeBody3
	case r.Err() == nil && v != version1:
		return nil, covey.Errorf(covey.Corrupt, "directory command of version %d, this program knows %d", v, version3)
	}
	c := decode(kind, r)
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("directory command of type %d: %w", kind, err)
	}
	return c, nil
}

func decodeBody(kind byte, r *wire.Reader) Command {
	switch kind {
	case typeFound:
		return readFound(r)
	case typeAddDomain:
		return AddDomain{Name: readText(r, covey.MaxDomain), Time: readTime(r)}
	case typeRemoveDomain:
		return RemoveDomain{Name: readText(r, covey.MaxDomain)}
	case typeAddAccounts:
		return readAddAccounts(r)
	case typeRemoveAccount:
		return RemoveAccount{Address: readAddress(r), Time: readTime(r)}
	case typeDropped:
		return Dropped{Account: covey.AccountID(r.Uint())}
	case typeSetAccount:
		return SetAccount{Address: readAddress(r), Quota: readOptional(r, readQuota), Disabled: readOptional(r, (*wire.Reader).Bool)}
	case typeSetPassword:
		return SetPassword{Account: covey.AccountID(r.Uint()), Hash: readHash(r), Verifier: readHash(r), Was: readHash(r)}
	case typeSetAlias:
		return readSetAlias(r)
	case typeRemoveAlias:
		return RemoveAlias{Address: readAddress(r)}
	case typeSetSettings:
		return readSettings(r)
	}
	r.Fail("unknown type")
	return nil
}

func readFound(r *wire.Reader) (c Found) {
	copy(c.Cluster[:], r.Raw(len(c.Cluster)))
	n := r.Uint()
	if n == 0 || n > MaxShards {
		r.Fail("number of shards")
	}
	c.Shards = uint32(n)
	return c
}

func readAddAccounts(r *wire.Reader) Command {
	n := r.Count(5)
	if n > MaxBatch {
		r.Fail("more accounts than a command may bring")
		return nil
	}
	c := AddAccounts{Accounts: make([]NewAccount, n)}
	for i := range c.Accounts {
		c.Accounts[i] = NewAccount{Address: readAddress(r), Hash: readHash(r), Verifier: readHash(r), Quota: readQuota(r)}
	}
	c.Update, c.Time = r.Bool(), readTime(r)
	return c
}

func readSetAlias(r *wire.Reader) Command {
	c := SetAlias{Address: readAddress(r)}
	n := r.Count(2)
	if n > MaxTargets {
		r.Fail("more targets than an alias may have")
		return nil
	}
	c.Targets = make([]covey.Address, n)
	for i := range c.Targets {
		c.Targets[i] = readAddress(r)
	}
	if c.Mode = AliasMode(r.Byte()); c.Mode > ReplaceAlias {
		r.Fail("alias mode")
	}
	return c
}

func readSettings(r *wire.Reader) SetSettings {
	return SetSettings{Quota: readOptional(r, readQuota), Postmaster: readOptional(r, readAddress)}
}

func readText(r *wire.Reader, most int) string {
	p := r.Bytes()
	if len(p) > most {
		r.Fail("text too long")
		return ""
	}
	return string(p)
}

func readHash(r *wire.Reader) string { return readText(r, password.MaxHash) }

func readAddress(r *wire.Reader) covey.Address {
	return covey.Address{Local: readText(r, covey.MaxLocalPart), Domain: readText(r, covey.MaxDomain)}
}

func readTime(r *wire.Reader) time.Time { return time.Unix(r.Int(), 0).UTC() }

func readQuota(r *wire.Reader) int64 {
	n := r.Int()
	if n < DefaultQuota {
		r.Fail("negative quota")
	}
	return n
}

func readOptional[T any](r *wire.Reader, read func(*wire.Reader) T) *T {
	if !r.Bool() {
		return nil
	}
	v := read(r)
	return &v
}
