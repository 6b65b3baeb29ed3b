"""Python's smtplib, imaplib and poplib against a node; arguments: service=host:port …"""
import email.message, email.policy, imaplib, poplib, smtplib, ssl, sys, threading, time

at = dict(a.split("=", 1) for a in sys.argv[1:])
tls = ssl.create_default_context()
tls.check_hostname = False
tls.verify_mode = ssl.CERT_NONE

def host(service):
    h, p = at[service].rsplit(":", 1)
    return h, int(p)

def message(subject, body="Hello\n"):
    m = email.message.EmailMessage(policy=email.policy.SMTP)
    m["From"], m["To"], m["Subject"] = "bob@example.org", "alice@example.org", subject
    m.set_content(body)
    m.add_attachment(b"\x00\x01" * 2000, maintype="application", subtype="octet-stream", filename="a.bin")
    return m

def expect(what, got, want):
    if got != want:
        sys.exit(f"{what}: got {got!r}, want {want!r}")

def refused(what, code, fn):
    try:
        fn()
    except smtplib.SMTPRecipientsRefused as e:
        expect(what, {c for c, _ in e.recipients.values()}, {code})
    except smtplib.SMTPResponseException as e:
        expect(what, e.smtp_code, code)
    else:
        sys.exit(f"{what}: was accepted")

def smtp():
    with smtplib.SMTP(*host("smtp")) as s:
        s.starttls(context=tls)
        s.send_message(message("plain MX"))
        s.sendmail("", ["postmaster@example.org", "alice+tag@example.org"], message("bounce").as_bytes())
        refused("unknown user", 550, lambda: s.sendmail("x@example.net", ["nobody@example.org"], b"x"))
        refused("relay", 550, lambda: s.sendmail("x@example.net", ["x@example.net"], b"x"))
        big = b"Subject: big\r\n\r\n" + (b"0123456789abcdef" * 4 + b"\r\n") * 32000  # 2 MiB, in chunks
        s.sendmail("x@example.net", ["alice@example.org"], big)
    with smtplib.SMTP(*host("submission")) as s:
        s.starttls(context=tls)
        refused("no log-in", 530, lambda: s.sendmail("bob@example.org", ["alice@example.org"], b"x"))
        try:
            s.login("bob@example.org", "wrong")
            sys.exit("wrong password was accepted")
        except smtplib.SMTPAuthenticationError as e:
            expect("wrong password", e.smtp_code, 535)
        s.login("bob@example.org", "bob")
        s.send_message(message("submitted"))
        refused("foreign sender", 553, lambda: s.sendmail("alice@example.org", ["alice@example.org"], b"x"))
    with smtplib.SMTP_SSL(*host("submissions"), context=tls) as s:
        s.login("bob", "bob")
        s.send_message(message("submissions"))
    with smtplib.LMTP(*host("lmtp")) as s:
        for rcpt in ("alice@example.org", "bob@example.org"):  # smtplib reads one reply only
            s.sendmail("x@example.net", [rcpt], message("lmtp").as_bytes())
    with smtplib.LMTP(at["lmtpsock"]) as s:
        s.sendmail("x@example.net", ["alice@example.org"], message("lmtp socket").as_bytes())

def imap():
    i = imaplib.IMAP4(*host("imap"))
    i.starttls(ssl_context=tls)
    i.login("alice@example.org", "alice")
    typ, n = i.select("INBOX")
    count = int(n[0])
    typ, found = i.search(None, "SUBJECT", '"plain MX"')
    expect("search", len(found[0].split()), 1)
    num = found[0].split()[0]
    typ, data = i.fetch(num, "(UID FLAGS ENVELOPE BODYSTRUCTURE RFC822.SIZE)")
    line = data[0] if isinstance(data[0], bytes) else data[0][0]
    if b'"MIXED"' not in line.upper() or b"plain MX" not in line:
        sys.exit(f"fetch: {line!r}")
    typ, data = i.fetch(num, "(RFC822)")
    parsed = email.message_from_bytes(data[0][1])
    expect("attachment", parsed.get_payload()[1].get_payload(decode=True), b"\x00\x01" * 2000)
    expect("store", i.store(num, "+FLAGS", r"(\Flagged Keyword)")[0], "OK")
    expect("create", i.create("Lists/Go")[0], "OK")
    expect("copy", i.copy(num, "Lists/Go")[0], "OK")
    expect("append", i.append("Sent", r"(\Seen)", imaplib.Time2Internaldate(time.time()), message("appended").as_bytes())[0], "OK")
    expect("uid move", i.uid("MOVE", i.fetch(num, "(UID)")[1][0].split()[2].rstrip(b")"), "Archive")[0], "OK")
    typ, n = i.select("INBOX")
    expect("messages after move", int(n[0]), count - 1)
    typ, boxes = i.list()
    if not any(rb"\Sent" in b for b in boxes) or not any(b"Lists/Go" in b for b in boxes):
        sys.exit(f"list: {boxes!r}")
    expect("no such", i.select("Nowhere")[0], "NO")
    i.logout()
    i = imaplib.IMAP4_SSL(*host("imaps"), ssl_context=tls)
    expect("authenticate", i.authenticate("PLAIN", lambda _: b"\0bob@example.org\0bob")[0], "OK")
    expect("bob", int(i.select("INBOX")[1][0]), 1)
    i.logout()

def pop3():
    p = poplib.POP3(*host("pop3"))
    p.stls(context=tls)
    p.user("alice@example.org")
    p.pass_("alice")
    count, size = p.stat()
    expect("list", len(p.list()[1]), count)
    uidl = p.uidl()[1]
    expect("uidl", len(set(uidl)), count)
    for k in range(1, count + 1):
        p.retr(k)
    p.dele(1)
    try:
        q = poplib.POP3_SSL(*host("pop3s"), context=tls)
        q.user("alice")
        q.pass_("alice")
        sys.exit("second login while locked")
    except poplib.error_proto as e:
        if b"[IN-USE]" not in e.args[0]:
            sys.exit(f"second login: {e}")
    p.quit()
    p = poplib.POP3_SSL(*host("pop3s"), context=tls)
    p.user("alice@example.org")
    p.pass_("alice")
    expect("after QUIT", p.uidl()[1], [b"%d %s" % (i + 1, u.split()[1]) for i, u in enumerate(uidl[1:])])
    p.quit()

def many():
    errors = []
    def one(k):
        try:
            with smtplib.SMTP(*host("smtp")) as s:
                for j in range(5):
                    s.sendmail("x@example.net", ["bob@example.org"], f"Subject: {k} {j}\r\n\r\nbody {k} {j}\r\n".encode())
        except Exception as e:
            errors.append(e)
    threads = [threading.Thread(target=one, args=(k,)) for k in range(10)]
    for t in threads: t.start()
    for t in threads: t.join()
    expect("parallel senders", errors, [])
    i = imaplib.IMAP4_SSL(*host("imaps"), ssl_context=tls)
    i.login("bob@example.org", "bob")
    expect("bob's messages", int(i.select("INBOX")[1][0]), 51)
    i.logout()

smtp(); imap(); pop3(); many()
print("all well")
