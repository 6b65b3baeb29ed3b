// Package imapd serves IMAP4rev1 (RFC 3501) with the extensions of
// github.com/emersion/go-imap/v2, on which it stands as wire and session layer.
//
// A connection passes through three parts:
//
//   - the login front, the only code that a peer reaches before it has proved
//     who it is: greeting, TLS, capability, LOGIN and AUTHENTICATE. What it hands
//     on is a Login and a connection, so that the session can run elsewhere;
//   - the guard, a net.Conn between the decrypted connection and go-imap. It cuts
//     the stream into commands, bounds them, checks them against the grammar, and
//     passes on one short, well-formed line at a time; it answers by itself what
//     go-imap does not know, and FETCH and STORE, which are most of what clients
//     ask; and it refuses what would make go-imap lose its place;
//   - the session, which does the commands on a mailbox.Account and a
//     mailbox.View, and is called by go-imap, or by the guard. What it tells the
//     client of messages it writes itself; go-imap holds nothing back meanwhile.
//
// Limits: a command has at most 48 KiB outside literals, 100 literals of 4,096
// octets and 64 KiB together, 100 levels of parentheses; before login 8 KiB and
// two literals of 1,024 octets. A message that is appended is bounded by
// Config.AppendLimit and is never held in memory here.
package imapd
