package message

import (
	"bytes"
	"strings"
	"testing"
)

// message8K is what people send most: 8 KiB, headers of several hops, text and
// HTML.
func message8K() []byte {
	head := `Return-Path: <alice@example.org>
Received: from out1.example.org (out1.example.org [192.0.2.25])
	by mx.example.net with ESMTPS id 4f3c2a1b0d
	(version=TLS1_3 cipher=TLS_AES_256_GCM_SHA384);
	Mon, 02 Jan 2006 15:04:06 -0700
Received: from [198.51.100.7] (client.example.org [198.51.100.7])
	by out1.example.org with ESMTPSA id 0a1b2c3d4e;
	Mon, 02 Jan 2006 15:04:05 -0700
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.org; s=s1;
	h=from:to:subject:date:message-id; bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
	b=AuUoFEfDxTDkHlLXSZEpZj79LICEps6eda7W3deTVFOk4yAUoqOB4nujc7YopdG5dWLSdNg6
From: =?utf-8?Q?Alice_M=C3=BCller?= <alice@example.org>
To: Bob Builder <bob@example.net>, carol@example.com
Cc: "Dave, D." <dave@example.com>
Subject: Minutes of the meeting on Monday
Date: Mon, 02 Jan 2006 15:04:05 -0700
In-Reply-To: <20060101.000001@example.net>
References: <20060101.000001@example.net>
Message-ID: <20060102.150405@example.org>
User-Agent: Mutt/2.2
MIME-Version: 1.0
Content-Type: multipart/alternative; boundary="----=_Part_4711_0815.1136239445"

------=_Part_4711_0815.1136239445
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

`
	middle := `
------=_Part_4711_0815.1136239445
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: quoted-printable

<html><body>
`
	const line = "The quick brown fox jumps over the lazy dog, and then it does so ag=\nain.\n"
	text := strings.Repeat(line, 30)
	m := head + text + middle
	for len(m) < 8000 {
		m += "<p>" + line
	}
	m += "</body></html>\n------=_Part_4711_0815.1136239445--\n"
	return []byte(strings.ReplaceAll(m, "\n", "\r\n"))
}

func BenchmarkParse8K(b *testing.B) {
	m := message8K()
	b.SetBytes(int64(len(m)))
	b.ReportAllocs()
	r := bytes.NewReader(m)
	var p Parser // a delivery borrows one
	for b.Loop() {
		r.Reset(m)
		s, err := p.Parse(r)
		if err != nil {
			b.Fatal(err)
		}
		if len(s.Encode()) == 0 {
			b.Fatal("empty encoding")
		}
	}
}

// BenchmarkParsePlain8K is of text in one part, which is most of it body.
func BenchmarkParsePlain8K(b *testing.B) {
	m := []byte("From: a@example.org\r\nTo: b@example.net\r\nSubject: plain\r\nDate: Mon, 02 Jan 2006 15:04:05 -0700\r\n\r\n" +
		strings.Repeat(strings.Repeat("x", 76)+"\r\n", 104))
	b.SetBytes(int64(len(m)))
	b.ReportAllocs()
	r := bytes.NewReader(m)
	var p Parser
	for b.Loop() {
		r.Reset(m)
		if _, err := p.Parse(r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	s := mustParse(b, string(message8K()))
	enc := s.Encode()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(enc); err != nil {
			b.Fatal(err)
		}
	}
}

// TestBudget keeps the usual message cheap: design §12 has 20 µs for it, which is
// mostly a matter of allocations.
func TestBudget(t *testing.T) {
	m := message8K()
	var s *Summary
	allocs := testing.AllocsPerRun(100, func() { s = mustParse(t, string(m)) })
	if allocs > 60 {
		t.Errorf("Parse of %d octets allocates %v times, most are 60", len(m), allocs)
	}
	if n := len(s.Encode()); n > 600 {
		t.Errorf("summary takes %d octets, most are 600", n)
	}
	if n := testing.AllocsPerRun(100, func() { s.Encode() }); n > 2 {
		t.Errorf("Encode allocates %v times, most are 2", n)
	}
}
