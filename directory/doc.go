// Package directory knows the domains, accounts and aliases of a cluster, the
// hashes of passwords, and on which shard an account's mail lies; and the cluster's
// nodes, with the key that each is known by, and which of them each shard is wanted
// on. Which are alive, and which hold a shard in truth, it does not know.
//
// State is the state machine of Raft group 0: an SQLite database that only
// applied commands change. Service is what the rest of a node sees: it answers
// from the local copy, and changes things by proposing commands. Every node holds
// the whole directory, so that checking a recipient or a password asks no other
// machine; and all addresses in memory as far as they fit, so that looking for a
// recipient asks no database either.
//
// Addresses are folded to lower case before they become part of a command; the
// state machine compares octets. An alias leads to one or more addresses of local
// domains, which may be aliases again; one with an empty local part, written
// @domain, is the domain's catch-all. A target that does not exist any more is
// passed over.
//
// Limits: 100,000 domains, 100 targets of an alias, 10 levels and 100 accounts
// behind one address, 1,000 accounts in one command; 1,024 nodes at one time and
// 16,384 ever, 7 voters of a shard.
package directory
