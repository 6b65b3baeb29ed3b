package nodetest

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/covey-mail/covey"
)

// replyTime bounds every wait for a reply to a client.
const replyTime = 30 * time.Second

// A Dialogue is a client's connection to a node, line by line.
type Dialogue struct {
	Conn net.Conn
	r    *textproto.Reader
}

// Dial connects to a service of the node: smtp, submission, lmtp, imap or pop3.
func (n *Node) Dial(service string) (*Dialogue, error) {
	l := n.Config.Listen
	addr := map[string][]string{"smtp": l.SMTP, "submission": l.Submission, "lmtp": l.LMTP, "imap": l.IMAP, "pop3": l.POP3}[service]
	c, err := net.DialTimeout("tcp", addr[0], replyTime)
	if err != nil {
		return nil, err
	}
	d := &Dialogue{c, textproto.NewReader(bufio.NewReader(c))}
	greeting, err := d.line()
	if err == nil && !slices.Contains([]string{"220 ", "* OK", "+OK "}, greeting[:min(len(greeting), 4)]) {
		err = errors.New(greeting)
	}
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("greeting: %w", err)
	}
	return d, nil
}

// Close closes the connection.
func (d *Dialogue) Close() { _ = d.Conn.Close() }

func (d *Dialogue) line() (string, error) {
	if err := d.Conn.SetReadDeadline(time.Now().Add(replyTime)); err != nil {
		return "", err
	}
	return d.r.ReadLine()
}

// Line reads a line.
func (d *Dialogue) Line() (string, error) { return d.line() }

// Write sends lines, each without its end.
func (d *Dialogue) Write(lines ...string) error {
	_, err := d.Conn.Write([]byte(strings.Join(lines, "\r\n") + "\r\n"))
	return err
}

// Ask sends a line and returns the last line of the reply, as SMTP, IMAP and POP3
// end one; IMAP's tag is "a".
func (d *Dialogue) Ask(line string) (string, error) {
	if err := d.Write(line); err != nil {
		return "", err
	}
	for {
		got, err := d.line()
		if err != nil || !strings.HasPrefix(got, "* ") && (len(got) < 4 || got[3] != '-') {
			return got, err
		}
	}
}

// A Refusal is a reply that says no.
type Refusal struct{ Code, Text string }

// Error implements error.
func (r *Refusal) Error() string { return r.Text }

// SMTP sends a command, reads the reply and returns its last line; a *Refusal if it
// is of class 4 or 5.
func (d *Dialogue) SMTP(command string) (string, error) {
	if err := d.Write(command); err != nil {
		return "", err
	}
	for {
		line, err := d.line()
		if err != nil {
			return "", fmt.Errorf("after %q: %w", clip(command), err)
		}
		if len(line) > 3 && line[3] == '-' {
			continue
		}
		if line == "" || line[0] == '4' || line[0] == '5' {
			return line, &Refusal{line[:min(len(line), 3)], line}
		}
		return line, nil
	}
}

// IMAP sends a command and returns the lines of the reply; a *Refusal if the last is
// not OK. BYE is one too.
func (d *Dialogue) IMAP(command string) (lines []string, err error) {
	if err := d.Write("a " + command); err != nil {
		return nil, err
	}
	for {
		line, err := d.line()
		switch {
		case err != nil:
			return lines, fmt.Errorf("after %q: %w", clip(command), err)
		case strings.HasPrefix(line, "a OK"):
			return append(lines, line), nil
		case strings.HasPrefix(line, "a "), strings.HasPrefix(line, "* BYE") && !strings.HasPrefix(command, "LOGOUT"):
			return lines, &Refusal{strings.Fields(line)[1], line}
		}
		lines = append(lines, line)
	}
}

// POP3 sends a command and returns the first line of the reply; a *Refusal if it is
// -ERR.
func (d *Dialogue) POP3(command string) (string, error) {
	if err := d.Write(command); err != nil {
		return "", err
	}
	line, err := d.line()
	if err == nil && !strings.HasPrefix(line, "+OK") {
		err = &Refusal{"-ERR", line}
	}
	return line, err
}

func clip(s string) string { return s[:min(len(s), 40)] }

// noHost is the Code of the Refusal of a node that does not even greet.
const noHost = "no host"

// Send delivers a message with a subject, as any MTA does. A *Refusal says that the
// node took nothing; after any other error it may have.
func (n *Node) Send(to, subject string) error {
	d, err := n.Dial("smtp")
	if err != nil {
		return &Refusal{noHost, err.Error()}
	}
	defer d.Close()
	for _, c := range []string{"EHLO client.example.net", "MAIL FROM:<carol@example.net>", "RCPT TO:<" + to + ">", "DATA"} {
		_, err := d.SMTP(c)
		if no := (*Refusal)(nil); err != nil && !errors.As(err, &no) {
			return &Refusal{noHost, err.Error()} // it broke before there was anything to take
		}
		if err != nil {
			return err
		}
	}
	_, err = d.SMTP("Subject: " + subject + "\r\n\r\nbody of " + subject + "\r\n.")
	_ = d.Write("QUIT") // that it was taken is known
	if no := (*Refusal)(nil); errors.As(err, &no) && no.Code == "451" {
		return errors.New(no.Text) // it could not be found out whether it was done
	}
	return err
}

// A Mail is a message in an INBOX.
type Mail struct {
	UID     covey.UID
	Subject string
}

// Login opens an IMAP session on the node.
func (n *Node) Login(user string) (*Dialogue, error) {
	d, err := n.Dial("imap")
	if err != nil {
		return nil, err
	}
	if _, err := d.IMAP("LOGIN " + user + " secret"); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// Inbox reads a user's INBOX by IMAP, and its UIDVALIDITY.
func (n *Node) Inbox(user string) (list []Mail, validity string, err error) {
	d, err := n.Login(user)
	if err != nil {
		return nil, "", err
	}
	defer d.Close()
	lines, err := d.IMAP("SELECT INBOX")
	if err != nil {
		return nil, "", err
	}
	for _, l := range lines {
		if v, ok := strings.CutPrefix(l, "* OK [UIDVALIDITY "); ok {
			validity, _, _ = strings.Cut(v, "]")
		}
	}
	lines, err = d.IMAP(fetchSubjects)
	if err != nil {
		return nil, "", err
	}
	_, _ = d.IMAP("LOGOUT") // all is read
	list, err = mailIn(lines)
	return list, validity, err
}

// fetchSubjects asks for what mailIn reads.
const fetchSubjects = "UID FETCH 1:* (BODY.PEEK[HEADER.FIELDS (SUBJECT)])"

// mailIn reads the messages in the replies to fetchSubjects.
func mailIn(lines []string) (list []Mail, err error) {
	for _, l := range lines {
		if _, rest, ok := strings.Cut(l, " FETCH (UID "); ok {
			uid, err := strconv.ParseUint(strings.Fields(rest)[0], 10, 32)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", l, err)
			}
			list = append(list, Mail{UID: covey.UID(uid)})
		}
		if subject, ok := strings.CutPrefix(l, "Subject: "); ok && len(list) > 0 {
			list[len(list)-1].Subject = subject
		}
	}
	return list, nil
}

// Stat is how many messages POP3 shows a user at the node.
func (n *Node) Stat(user string) (int, error) {
	d, err := n.Dial("pop3")
	if err != nil {
		return 0, err
	}
	defer d.Close()
	for _, c := range []string{"USER " + user, "PASS secret"} {
		if _, err := d.POP3(c); err != nil {
			return 0, err
		}
	}
	line, err := d.POP3("STAT")
	if err != nil {
		return 0, err
	}
	_, _ = d.POP3("QUIT") // nothing was deleted
	return strconv.Atoi(strings.Fields(line)[1])
}
