package imapd

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/covey-mail/covey/mailbox"
)

// localTime bounds the look-ups of a command that the guard answers itself.
const localTime = 10 * time.Second

// capabilities after login. IMAP4rev2 and UTF8=ACCEPT are not among them, although
// go-imap knows them: its rev2 cannot name mailboxes with an ampersand.
const capabilities = "IMAP4rev1 LITERAL+ ID ENABLE IDLE NAMESPACE UIDPLUS UNSELECT CHILDREN ESEARCH SEARCHRES" +
	" LIST-EXTENDED LIST-STATUS SPECIAL-USE CREATE-SPECIAL-USE MOVE BINARY STATUS=SIZE QUOTA APPENDLIMIT="

func sessionCapabilities(appendLimit int64) string {
	return capabilities + strconv.FormatInt(appendLimit, 10)
}

// local does the commands that need nothing of go-imap, and reports whether cmd
// is one of them.
func (g *guard) local(cmd command) (bool, *imap.Error) {
	c := cursor{s: cmd.args}
	var lines string
	switch cmd.name {
	case "CAPABILITY":
		c.end()
		lines = "* CAPABILITY " + sessionCapabilities(g.s.cfg.AppendLimit) + "\r\n"
	case "ID":
		c.id()
		lines = serverID
	case "ENABLE":
		c.enable()
		lines = "* ENABLED\r\n"
	case "GETQUOTA":
		lines = g.getQuota(&c)
	case "GETQUOTAROOT":
		lines = g.getQuotaRoot(&c)
	case "SETQUOTA":
		c.fail(no(imap.ResponseCodeNoPerm, "Quotas are set by the administrator"))
	case "LOGIN", "AUTHENTICATE", "STARTTLS", "UNAUTHENTICATE":
		c.fail(bad("Not in this state"))
	default:
		return false, nil
	}
	if c.err != nil {
		return true, c.err
	}
	g.s.cfg.Metrics.Commands.WithLabelValues(cmd.name).Inc()
	ok := &imap.Error{Type: imap.StatusResponseTypeOK, Text: cmd.name + " completed"}
	_ = g.say(lines + string(status(cmd.tag, ok))) // a failure shows at the next read
	return true, nil
}

// onMessages does FETCH and STORE, and reports whether cmd is one of them: go-imap
// would read and write each of their words by itself.
func (g *guard) onMessages(cmd command) (bool, *imap.Error) {
	var do func() error
	switch cmd.name {
	case "FETCH", "UID FETCH":
		q, err := parseFetch(cmd)
		if err != nil {
			return true, err
		}
		do = func() error { return g.session.fetchMessages(q) }
	case "STORE", "UID STORE":
		q, err := parseStore(cmd)
		if err != nil {
			return true, err
		}
		do = func() error { return g.session.storeFlags(q) }
	default:
		return false, nil
	}
	if !g.session.open {
		return true, &imap.Error{Type: imap.StatusResponseTypeBad, Code: imap.ResponseCodeClientBug, Text: "No mailbox is selected"}
	}
	g.s.cfg.Metrics.Commands.WithLabelValues(cmd.name).Inc()
	answer := okay(cmd.name + " completed")
	if err := do(); err != nil {
		answer = reply(err)
	} else if g.session.poll(mailbox.PollOptions{Expunge: strings.HasPrefix(cmd.name, "UID ")}) != nil {
		g.ended = true // BYE was said
		return true, nil
	}
	_, _ = g.Write(status(cmd.tag, answer)) // a failure shows at the next read
	return true, nil
}

const serverID = "* ID (\"name\" \"Covey\")\r\n"

// id reads the parameters of ID (RFC 2971 section 3.1), which nobody looks at.
func (c *cursor) id() {
	c.sp()
	if c.peek() != '(' {
		if !strings.EqualFold(c.atom(), "NIL") {
			c.want("NIL or a list")
		}
		c.end()
		return
	}
	n := 0
	c.list(60, func() {
		n++
		if c.peek() != '"' && (n%2 == 1 || !strings.EqualFold(c.atom(), "NIL")) {
			c.want("a string")
		} else if c.peek() == '"' && len(c.quoted()) > 1024 {
			c.fail(bad("ID value too long"))
		}
	})
	if n%2 == 1 {
		c.want("a value")
	}
	c.end()
}

// enable reads the arguments of ENABLE (RFC 5161). Nothing here needs enabling,
// and what is not known is passed over.
func (c *cursor) enable() {
	for n := 0; n == 0 || c.peek() == ' '; n++ {
		c.sp()
		if c.atom(); n == 100 {
			c.fail(bad("Too many capabilities"))
		}
	}
	c.end()
}

// getQuota answers GETQUOTA (RFC 2087 section 4.2). Every account has one root,
// with an empty name.
func (g *guard) getQuota(c *cursor) string {
	c.sp()
	root := c.astring()
	c.end()
	if c.err == nil && root != "" {
		c.fail(no(imap.ResponseCodeNonExistent, "No such quota root"))
	}
	return g.quota(c)
}

// getQuotaRoot answers GETQUOTAROOT (RFC 2087 section 4.3). The mailbox need not
// exist.
func (g *guard) getQuotaRoot(c *cursor) string {
	c.sp()
	name := c.mailbox()
	c.end()
	line := appendQuoted([]byte("* QUOTAROOT "), encodeName(name))
	return string(line) + " \"\"\r\n" + g.quota(c)
}

// quota returns the QUOTA response: units of 1,024 octets, used ones rounded up.
func (g *guard) quota(c *cursor) string {
	if c.err != nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(g.ctx, localTime)
	defer cancel()
	used, err := g.session.account.Usage(ctx)
	if err != nil {
		c.fail(g.session.replyLog("QUOTA", err))
		return ""
	}
	limit := g.session.account.Quota()
	if limit == 0 {
		return "* QUOTA \"\" ()\r\n"
	}
	return fmt.Sprintf("* QUOTA \"\" (STORAGE %d %d)\r\n", (used.Bytes+1023)/1024, limit/1024)
}
