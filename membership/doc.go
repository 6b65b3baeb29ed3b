// Package membership tells which nodes of the cluster are alive and who leads
// each shard, by gossip.
//
// It is SWIM as hashicorp/memberlist does it: each node probes another in turn;
// who does not answer, not to others that are asked to try and not over TCP
// either, is suspect; a suspect that does not object in time is dead. Everything
// is encrypted (AES-256-GCM) and labelled with the cluster's id.
//
// Gossip is a hint. It says whom to try first and whom not to wait for, never who
// owns what: whoever has the key may say anything. It knows nodes and shards,
// not users.
//
// A node describes itself in at most 512 octets, its name being its id in
// hexadecimal:
//
//	0  1  version, 1; what later versions append is ignored
//	1  8  id of the node, little endian
//	9     length and text of: address for peers, version, zone
//	      varints: octets of disk used, octets free, connections, sessions
//
// Leaders travel as messages of one and, when two nodes compare all they know,
// of all:
//
//	0  1  version, 1; others are ignored
//	1     varint: number of
//	      varints: shard, term; 8 octets node, little endian; 1 octet: 1 if it has its quorum
//
// Limits: 1,024 members, 65,536 shards, 64 streams at a time, 4 MiB in one; what is
// beyond is refused and counted. DESIGN.md gives the reasons, and the arithmetic
// of the time it takes to notice a death.
package membership
