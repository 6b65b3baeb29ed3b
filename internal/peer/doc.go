// Package peer is how the nodes of a cluster speak to each other: the identity
// that a node derives from the cluster secret and its own key, and links under
// mutual TLS 1.3 that carry one-way messages, calls and whole connections.
//
// A node proves with a certificate that it knows the secret, and with its key
// that it is the node whose key the directory has on record; a link needs both.
// Only a node that joins is believed without the second (CallAddr, HandleJoin).
//
// It knows nothing of Raft, mail or gossip: what the octets mean is the business
// of whoever registers a handler. DESIGN.md says what happens when links, nodes
// and clocks fail.
//
// # Protocol
//
// Over TLS with the application protocol "covey/1" travel frames; integers are
// little endian:
//
//	offset  octets
//	     0  4  length of what follows the header, at most 16 MiB
//	     4  1  type
//	     5  1  code: kind of a post, method of a call, covey.Kind of an error,
//	           class of a hello, reason of a bye; else 0
//	     6  2  0
//	     8  8  number of a call, chosen by who calls and repeated in the answer;
//	           of a ping likewise; else 0
//	    16  4  milliseconds that the caller of a call will still wait, 0 no limit
//	    20  …  payload
//
// The types are
//
//	1  post   payload for a handler; no answer
//	2  call   request for a handler
//	3  reply  what the handler returned
//	4  error  text of the handler's error, or why it was not called
//	5  ping   asks for a pong at once
//	6  pong
//	7  hello  the first frame of a connection
//	8  bye    make no more calls on this link: 0, whoever accepted it is stopping;
//	          1, it has a new certificate, and another link will show it
//
// The dialler begins with a hello. Its code says what the connection is for: 1
// control link, 2 bulk link, 3 a stream, 4 a call of a node that joins. Its
// payload, at most 65 KiB, is empty, or for a stream the service and the header,
// each as package wire writes byte strings. The answer is an empty reply, or an
// error. Then follow
//
//   - on a link: posts, calls and pings from the dialler; replies, errors, pongs
//     and a bye from the acceptor;
//   - on a stream: octets without frames;
//   - to join: one call, of at most 1 MiB, and its answer.
package peer
