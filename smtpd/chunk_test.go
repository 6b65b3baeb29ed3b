package smtpd

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestS36_S37_S38_Chunks(t *testing.T) {
	const spell = "= \"RSET\\r\\nQUIT\"\n" // 10 octets
	play(t, []row{
		{"one chunk", MX, opening + "> BDAT 5 LAST\n= \"hello\"\n< 250\n> QUIT\n< 221\n<EOF", 1},
		{"chunks, pipelined", MX, opening + "= \"BDAT 2\\r\\nheBDAT 0\\r\\nBDAT 3 last\\r\\nlloRSET\\r\\n\"\n< 250\n< 250\n< 250\n< 250", 1},
		{"dots are data", MX, opening + "> BDAT 8 LAST\n= \"\\r\\n.\\r\\n..\\n\"\n< 550 5.5.2", 0},
		{"S-05/NUL", MX, opening + "> BDAT 3\n= \"a\\x00b\"\n< 250\n> BDAT 0 LAST\n< 554 5.6.0\n> NOOP\n< 250", 0},
		{"S-36/without MAIL", MX, "> BDAT 10\n" + spell + "< 503 5.5.1\n> NOOP\n< 250", 0},
		{"S-36/without MAIL, in one segment", MX, "= \"BDAT 10\\r\\nRSET\\r\\nQUITNOOP\\r\\n\"\n< 503 5.5.1\n< 250 2.0.0 I have", 0},
		{"S-36/without RCPT", MX, "> MAIL FROM:<>\n< 250\n> BDAT 10 LAST\n" + spell + "< 503 5.5.1\n> NOOP\n< 250", 0},
		{"S-37/20 digits", MX, opening + "> BDAT 99999999999999999999\n< 501|552\n<EOF", 0},
		{"S-37/over all bounds", MX, opening + "> BDAT 150001\n< 552 5.3.4\n<EOF", 0},
		{"S-37/over all bounds, later", MX, opening + "> BDAT 1\n= \"x\"\n< 250\n> BDAT 150001\n< 552 5.3.4\n<EOF", 0},
		{"S-37/over the limit", MX, opening + "> BDAT 100001 LAST\n= " + quote(strings.Repeat("x", 100_001)) + "\n< 552 5.3.4\n> NOOP\n< 250", 0},
		{"S-37/negative", MX, opening + "> BDAT -1\n< 501 5.5.4\n> NOOP\n< 250", 0},
		{"S-37/no size", MX, opening + "> BDAT\n< 501 5.5.4\n> BDAT LAST\n< 501 5.5.4\n> BDAT 1 FIRST\n< 501 5.5.4\n> BDAT 1 LAST x\n< 501 5.5.4", 0},
		{"S-37/no size, later", MX, opening + "> BDAT 1\n= \"x\"\n< 250\n> BDAT -1\n< 501 5.5.4\n> BDAT 1 LAST\n= \"y\"\n< 250", 1},
		{"S-37/0", MX, opening + "> BDAT 0\n< 250\n> BDAT 0\n< 250\n> BDAT 0 LAST\n< 250", 1},
		{"S-38/DATA after BDAT", MX, opening + "> BDAT 1\n= \"x\"\n< 250\n> DATA\n< 503 5.5.1\n> MAIL FROM:<>\n< 503\n> RCPT TO:<bob@example.org>\n< 503\n> BDAT 0 LAST\n< 250", 1},
		{"S-38/BDAT after a failed message", MX, opening + "> BDAT 2 LAST\n= \"a\\n\"\n< 550 5.5.2\n> BDAT 10 LAST\n" + spell + "< 503\n> NOOP\n< 250", 0},
		{"S-38/BDAT after the last", MX, opening + "> BDAT 1 LAST\n= \"x\"\n< 250\n> BDAT 10 LAST\n" + spell + "< 503\n> NOOP\n< 250", 1},
		{"RSET between chunks", MX, opening + "> BDAT 1\n= \"x\"\n< 250\n> RSET\n< 250\n> BDAT 1 LAST\n= \"y\"\n< 503\n" + opening + "> BDAT 1 LAST\n= \"z\"\n< 250", 1},
		{"EHLO between chunks", MX, opening + "> BDAT 1\n= \"x\"\n< 250\n> EHLO again.example\n< 250\n> MAIL FROM:<>\n< 250", 0},
		{"QUIT between chunks", MX, opening + "> BDAT 1\n= \"x\"\n< 250\n> QUIT\n< 221\n<EOF", 0},
		{"NOOP between chunks", MX, opening + "> BDAT 1\n= \"x\"\n< 250\n> NOOP\n< 250\n> BDAT 1 LAST\n= \"y\"\n< 250", 1},
		{"bad line between chunks", MX, opening + "> BDAT 1\n= \"x\"\n< 250\n= \"a\\nb\\r\\n\"\n< 500\n> BDAT 1 LAST\n= \"y\"\n< 250", 1},
		{"junk between chunks", MX, opening + "> BDAT 1\n= \"x\"\n< 250\n" + strings.Repeat("> JUNK\n< 503\n", 20) + "< 421 4.7.0\n<EOF", 0},
		{"LMTP", LMTP, opening + "> RCPT TO:<alice@example.org>\n< 250\n> BDAT 1\n= \"x\"\n< 250\n> BDAT 1 LAST\n= \"y\"\n< 250 2.1.5\n< 250 2.1.5\n> NOOP\n< 250 2.0.0", 1},
		{"LMTP, RSET between chunks", LMTP, opening + "> RCPT TO:<alice@example.org>\n< 250\n> BDAT 1\n= \"x\"\n< 250\n> RSET\n< 250 2.0.0 Session\n> NOOP\n< 250 2.0.0 I have", 0},
		{"L-08/no recipient", LMTP, "> MAIL FROM:<>\n< 250\n> BDAT 10 LAST\n" + spell + "> NOOP\n< 250 2.0.0 I have\n> MAIL FROM:<>\n< 250", 0},
		{"L-08/no recipient, not the last", LMTP, "> MAIL FROM:<>\n< 250\n> BDAT 10\n" + spell + "< 503\n> NOOP\n< 250", 0},
		{"L-08/no MAIL", LMTP, "> BDAT 10 LAST\n" + spell + "< 503\n> NOOP\n< 250", 0},
	})
}

func TestS37_ManySmallChunks(t *testing.T) {
	r := newRig(t)
	c := r.ready(MX)
	c.run(opening)
	const n = 50_000
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		c.send(strings.Repeat("BDAT 1\r\nx", n) + "BDAT 0 LAST\r\n")
	}()
	for range n {
		c.expect("250 2.0.0 Chunk")
	}
	c.expect("250")
	<-sent
	if diff := cmp.Diff(n, len(r.mail.messages()[0].Body)); diff != "" {
		t.Error(diff)
	}
}
