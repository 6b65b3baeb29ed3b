package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Times that clients wait: for a connection, and for one reply.
const (
	dialTimeout  = time.Second
	replyTimeout = 10 * time.Second
)

// Bounds of what one reply may bring, in octets.
const (
	maxLine    = 64 << 10
	maxLiteral = 8 << 20
)

// readLine reads a line of at most the reader's size, and returns it without its
// end.
func readLine(in *bufio.Reader) (string, error) {
	line, err := in.ReadSlice('\n')
	return strings.TrimRight(string(line), "\r\n"), err
}

// dial connects a client to a service of a host, with TLS where that is spoken.
// Log-ins without TLS are refused to all but loopback.
func dial(h *host, port string) (net.Conn, error) {
	d := &net.Dialer{Timeout: dialTimeout}
	addr := net.JoinHostPort(h.ip, port)
	if port != imapsPort && port != pop3sPort {
		return d.Dial("tcp", addr)
	}
	// The certificates are made by the nodes for themselves.
	return tls.DialWithDialer(&net.Dialer{Timeout: 2 * dialTimeout}, "tcp", addr, &tls.Config{InsecureSkipVerify: true})
}

// errRefused is the kind of errors that are a server's NO: nothing was done.
var errRefused = errors.New("refused")

// imapConn is an IMAP session.
type imapConn struct {
	conn net.Conn
	in   *bufio.Reader
	tag  int
}

// untagged is one untagged reply, without its star and with the literals taken out.
type untagged struct {
	text     string
	literals []string
}

// imapLogin opens a session; each user's password is its name.
func imapLogin(h *host, user string) (*imapConn, error) {
	conn, err := dial(h, imapsPort)
	if err != nil {
		return nil, err
	}
	c := &imapConn{conn: conn, in: bufio.NewReaderSize(conn, maxLine)}
	_ = conn.SetDeadline(time.Now().Add(replyTimeout))
	line, err := readLine(c.in)
	if err == nil && !strings.HasPrefix(line, "* OK") {
		err = fmt.Errorf("greeting %q", line)
	}
	if err == nil {
		_, _, err = c.ask("LOGIN %s %s", address(user), user)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *imapConn) close() { _ = c.conn.Close() }

// ask sends a command and reads its replies. An error that is errRefused is the
// server's no; any other leaves open what happened, and ends the session.
func (c *imapConn) ask(format string, args ...any) (list []untagged, ok string, err error) {
	return c.askLiteral(fmt.Sprintf(format, args...), "")
}

// askLiteral is ask with a literal at the command's end, if it is not empty. It is
// not synchronising (LITERAL+), so that no more than one round trip is needed.
func (c *imapConn) askLiteral(command, literal string) (list []untagged, ok string, err error) {
	c.tag++
	tag := "t" + strconv.Itoa(c.tag)
	_ = c.conn.SetDeadline(time.Now().Add(replyTimeout))
	line := tag + " " + command + "\r\n"
	if literal != "" {
		line = fmt.Sprintf("%s %s {%d+}\r\n%s\r\n", tag, command, len(literal), literal)
	}
	if _, err := io.WriteString(c.conn, line); err != nil {
		return nil, "", err
	}
	for {
		u, err := c.reply()
		if err != nil {
			return list, "", err
		}
		if rest, ok := strings.CutPrefix(u.text, "* "); ok {
			list = append(list, untagged{rest, u.literals})
			continue
		}
		rest, mine := strings.CutPrefix(u.text, tag+" ")
		switch {
		case !mine:
			return list, "", fmt.Errorf("unexpected line %q", u.text)
		case strings.HasPrefix(rest, "OK"):
			return list, rest, nil
		default:
			return list, "", fmt.Errorf("%w: %s", errRefused, rest)
		}
	}
}

var literalEnd = regexp.MustCompile(`\{(\d+)\}$`)

// reply reads one reply with its literals.
func (c *imapConn) reply() (u untagged, err error) {
	for size := 0; ; {
		line, err := readLine(c.in)
		if err != nil {
			return u, err
		}
		if size += len(line); size > maxLiteral {
			return u, fmt.Errorf("a reply of more than %d octets", maxLiteral)
		}
		u.text += line
		m := literalEnd.FindStringSubmatch(line)
		if m == nil {
			return u, nil
		}
		n, err := strconv.Atoi(m[1])
		if size += n; err != nil || n > maxLiteral || size > maxLiteral {
			return u, fmt.Errorf("literal of %s octets", m[1])
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(c.in, b); err != nil {
			return u, err
		}
		u.literals = append(u.literals, string(b))
	}
}

// view is a mailbox as SELECT and a FETCH of all of it show it.
type view struct {
	validity, next uint32
	exists         int
	list           []row
	asked, told    time.Time // of the SELECT
	// whole says that the list is the mailbox at the SELECT: nothing was told of
	// changes in between.
	whole bool
}

// row is one message of a view.
type row struct {
	uid   uint32
	flags string // as in FLAGS, with a space around each
	text  string // header or message, as asked for
}

var (
	existsLine = regexp.MustCompile(`^(\d+) (EXISTS|EXPUNGE)`)
	codeLine   = regexp.MustCompile(`^OK \[(UIDVALIDITY|UIDNEXT) (\d+)\]`)
	uidItem    = regexp.MustCompile(`[( ]UID (\d+)`)
	flagsItem  = regexp.MustCompile(`FLAGS \(([^)]*)\)`)
)

// selectBox selects a mailbox and reads each message's part ("" for none of it).
func (c *imapConn) selectBox(verb, box, part string) (v view, err error) {
	v.asked = time.Now()
	list, _, err := c.ask("%s %s", verb, box)
	v.told = time.Now()
	if err != nil {
		return v, err
	}
	for _, u := range list {
		if m := existsLine.FindStringSubmatch(u.text); m != nil {
			v.exists, _ = strconv.Atoi(m[1]) // digits; too many of them are 0, which is noticed
		}
		if m := codeLine.FindStringSubmatch(u.text); m != nil {
			n, _ := strconv.ParseUint(m[2], 10, 32)
			if m[1] == "UIDNEXT" {
				v.next = uint32(n)
			} else {
				v.validity = uint32(n)
			}
		}
	}
	if v.validity == 0 || v.next == 0 {
		return v, fmt.Errorf("%s %s tells no UIDVALIDITY or UIDNEXT: %v", verb, box, list)
	}
	v.whole = true
	if v.exists == 0 {
		return v, nil
	}
	list, _, err = c.ask("UID FETCH 1:* (UID FLAGS %s)", part)
	if err != nil {
		return v, err
	}
	for _, u := range list {
		if existsLine.MatchString(u.text) {
			v.whole = false
		}
		if r, ok := fetched(u); ok {
			v.list = append(v.list, r)
		}
	}
	v.whole = v.whole && len(v.list) == v.exists
	return v, nil
}

// fetched reads a FETCH reply that has a UID and a body part.
func fetched(u untagged) (r row, ok bool) {
	m := uidItem.FindStringSubmatch(u.text)
	if m == nil || len(u.literals) == 0 {
		return r, false
	}
	n, err := strconv.ParseUint(m[1], 10, 32)
	if err != nil {
		return r, false
	}
	r.uid, r.text = uint32(n), u.literals[len(u.literals)-1]
	if f := flagsItem.FindStringSubmatch(u.text); f != nil {
		r.flags = " " + f[1] + " "
	}
	return r, true
}

var codeUIDs = regexp.MustCompile(`\[(?:APPENDUID|COPYUID) (\d+) (?:[\d:,]+ )?(\d+)\]`)

// placed reads APPENDUID, or COPYUID of one message.
func placed(ok string) (validity, uid uint32) {
	m := codeUIDs.FindStringSubmatch(ok)
	if m == nil {
		return 0, 0
	}
	v, _ := strconv.ParseUint(m[1], 10, 32)
	n, _ := strconv.ParseUint(m[2], 10, 32)
	return uint32(v), uint32(n)
}
