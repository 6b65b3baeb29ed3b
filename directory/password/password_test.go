package password

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/covey-mail/covey"
)

// foreign are hashes made by other programs: doveadm pw, openssl passwd and
// crypt(3) of glibc.
var foreign = []struct{ from, password, hash string }{
	{"openssl passwd -6", "secret", "{SHA512-CRYPT}$6$abcdefgh$ltjgWl6579NluT/Vi1nwEvcil.G5Nbc4NiXZaNGStk8PSwGfQv72N2CKPPrVACtLtip/cZ/1GM/O6IND4WQhG."},
	{"openssl passwd -6", "a longer pass phrase of more than sixty-four octets, so that stretching is exercised twice",
		"{SHA512-CRYPT}$6$abcdefgh$0BuXv5h09WTfREcn7qrQaaX0a6mewkhLHLjMcrky5P83EAUFJYjLd6dNswfQ9Kk.oJmmqkr7N3OW1iE2fPaAv0"},
	{"openssl passwd -5", "secret", "{SHA256-CRYPT}$5$saltstring0$Qp2p09NrLHaTndeH61zQsQJLNicIiot8D4IdYxT6/c1"},
	{"openssl passwd -5", "a longer pass phrase of more than sixty-four octets, so that stretching is exercised twice",
		"{SHA256-CRYPT}$5$saltstring0$zKVZyZzXzuRp.2qrZkVwm3QV3UnLailrO02XfPTQJ76"},
	{"crypt(3)", "secret", "{CRYPT}$6$rounds=1000$roundssalt$Gw.0rWwdQX5WoyzO06nGnVlvqtAJr7p0zTSMZ9PX/7MCQ4eqb.sKKZS9VMgU2DGrXihb2SNHzzeDVMo1JHiU9/"},
	{"crypt(3)", "geheim", "{SHA256-CRYPT}$5$rounds=1400$anotherlongsalts$VHLiXOLXuIRBz55X1aAFBtPLSZ4RPnY0uaHaFFE4SI1"},
	{"crypt(3)", strings.Repeat("x", 200), "{SHA512-CRYPT}$6$longlonglonglong$rmpvwyKZP3xciNvbDKsNdMbIwZduoMKSo5a2Kz8HgHs5005N9h7//tRhw7V.Ub9xYgS6CqYL7HY9mdUttzJYC0"},
	{"crypt(3)", "secret", "{BLF-CRYPT}$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a"},
	{"crypt(3)", "secret", "{CRYPT}$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW"},
	// The specification's own samples.
	{"SHA-crypt.txt", "Hello world!", "{SHA512-CRYPT}$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1"},
	{"SHA-crypt.txt", "Hello world!", "{SHA512-CRYPT}$6$rounds=10000$saltstringsaltstring$OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbHbbMCVNSnCM/UrjmM0Dp8vOuZeHBy/YTBmSK6H9qs/y3RnOaw5v."},
	{"SHA-crypt.txt", "the minimum number is still observed", "{SHA512-CRYPT}$6$rounds=10$roundstoolow$kUMsbe306n21p9R.FRkW3IGn.S9NPN0x50YhH1xhLsPuWGsUSklZt58jaTfF4ZEQpyUNGc0dqbpBYYBaHHrsX."},
	{"SHA-crypt.txt", "Hello world!", "{SHA256-CRYPT}$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"},
	{"SHA-crypt.txt", "Hello world!", "{SHA256-CRYPT}$5$rounds=10000$saltstringsaltstring$3xv.VbSHBb41AL9AvLeujZkZRBAwqFMz2.opqey6IcA"},
	{"doveadm pw", "corréct horse", "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$nPvAdPCIwqiK9x3wy6ccwA$PZa1bmM5G/5x16oM9nDEKou2fzC7AR6FrZgm2x8/7UU"},
	{"doveadm pw", "corréct horse", "{ARGON2I}$argon2i$v=19$m=32768,t=4,p=1$T3r62pseOsz1bkgi20wnhw$3HRDYxjPXyytFZHOUXZ+MEkKMMZ2gdSbswCMtxuX2hA"},
	{"doveadm pw", "corréct horse", "{BLF-CRYPT}$2y$05$j6ODpaJYkdQIrihWzdXEceWsAaBLlge7i2K3nDtOfaDkWDFf8upXO"},
	{"doveadm pw", "corréct horse", "{SHA512-CRYPT}$6$8a3vjWXUxswF.4mB$RRHYKKs6KEcv.FQ7O9wWWDOJv8a5Q7swTvK39l04M2dQ86mcpEZoZGEF.6pRWKwNAHUTl7PeWftbMfwj6EAyO0"},
	{"doveadm pw", "corréct horse", "{SHA256-CRYPT}$5$ksNoS1iWTaVpXd70$KPn1FXuBf0NaWFaqrIAoBugVCwOHTCd4mHvqt9P2FK2"},
	{"doveadm pw", "corréct horse", "{SSHA}pP1KoEialoLMQf9SXknTaNdMYFkSDL0K"},
	{"doveadm pw", "corréct horse", "{SSHA256}oQxMoC6DJQjg5jMHhyEQyTJ+9bnonHuxI9AyBky4ogoPZenj"},
	{"doveadm pw", "corréct horse", "{SSHA512}NaIIy5UN1yVDN5JBVXyN5TC9AOvZCZuzofP3dI51yXQWGO0OVsltWA8Csj87zW8mLIDQb498XETS5JouJfDoUl5xtHQ="},
	{"doveadm pw", "corréct horse", "{SSHA256.HEX}ad6819e8bbbf5fb989eeebea96b81655b7541404a08c1fc0b46795d047f6934385a49954"},
	{"doveadm pw", "corréct horse", "{SSHA.B64}sF7jkrGAJVDGxQocW1drTbbDlJV0XIlm"},
}

func TestForeignHashes(t *testing.T) {
	h := NewHasher(0)
	for _, tt := range foreign {
		name, _, _ := Split(tt.hash)
		t.Run(name+" by "+tt.from, func(t *testing.T) {
			for _, try := range []struct {
				password string
				want     bool
			}{{tt.password, true}, {strings.ToUpper(tt.password), false}} {
				got, err := h.Verify(t.Context(), tt.hash, try.password)
				if err != nil || got != try.want {
					t.Errorf("Verify(%q, %.40q) = %v, %v; want %v", tt.hash, try.password, got, err, try.want)
				}
			}
		})
	}
}

func TestNewHashVerifies(t *testing.T) {
	h := NewHasher(0)
	const password = "pässword with blanks"
	hash, err := h.Hash(t.Context(), password)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(hash, "{ARGON2ID}$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("hash %q", hash)
	}
	if ok, err := h.Verify(t.Context(), hash, password); !ok || err != nil {
		t.Errorf("own hash: %v, %v", ok, err)
	}
	if again, _ := h.Hash(t.Context(), password); again == hash {
		t.Error("two hashes of one password are equal: no salt")
	}
}

func TestCheckRefuses(t *testing.T) {
	const key = "$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	for _, tt := range []struct {
		name, hash string
		want       covey.Kind
	}{
		{"clear", "secret", covey.Invalid},
		{"clear by scheme", "{PLAIN}secret", covey.Invalid},
		{"unknown scheme", "{MD5}abc", covey.Invalid},
		{"no such encoding", "{SSHA.XYZ}AAAA", covey.Invalid},
		{"digest without salt", "{SSHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk=", covey.Invalid},
		{"not base64", "{SSHA256}!!!!", covey.Invalid},
		{"argon2 memory", "{ARGON2ID}$argon2id$v=19$m=262145,t=1,p=1" + key, covey.Limit},
		{"argon2 passes", "{ARGON2ID}$argon2id$v=19$m=65536,t=4000000000,p=1" + key, covey.Limit},
		{"argon2 lanes", "{ARGON2ID}$argon2id$v=19$m=65536,t=1,p=255" + key, covey.Limit},
		{"argon2 no passes", "{ARGON2ID}$argon2id$v=19$m=65536,t=0,p=1" + key, covey.Invalid},
		{"argon2 version", "{ARGON2ID}$argon2id$v=16$m=65536,t=1,p=1" + key, covey.Invalid},
		{"argon2d", "{ARGON2ID}$argon2d$v=19$m=65536,t=1,p=1" + key, covey.Invalid},
		{"bcrypt cost", "{BLF-CRYPT}$2y$17$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a", covey.Limit},
		{"bcrypt short", "{BLF-CRYPT}$2y$05$abc", covey.Invalid},
		{"bcrypt alphabet", "{BLF-CRYPT}$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl!a", covey.Invalid},
		{"sha512 rounds", "{SHA512-CRYPT}$6$rounds=10000001$salt$" + strings.Repeat("a", 86), covey.Limit},
		{"sha512 rounds overflow", "{SHA512-CRYPT}$6$rounds=99999999999999999999$salt$" + strings.Repeat("a", 86), covey.Invalid},
		{"sha512 short", "{SHA512-CRYPT}$6$salt$abc", covey.Invalid},
		{"crypt DES", "{CRYPT}abJnggxhB/yWI", covey.Invalid},
		{"too long", "{SSHA}" + strings.Repeat("A", MaxHash), covey.Invalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := Check(tt.hash); !errors.Is(err, tt.want) {
				t.Errorf("Check(%q) = %v, want kind %v", tt.hash, err, tt.want)
			}
		})
	}
}

func TestAcceptable(t *testing.T) {
	for _, tt := range []struct {
		password string
		ok       bool
	}{{"x", true}, {strings.Repeat("x", MaxPassword), true}, {"", false}, {strings.Repeat("x", MaxPassword+1), false}, {"a\x00b", false}} {
		if err := Acceptable(tt.password); (err == nil) != tt.ok {
			t.Errorf("Acceptable(%.20q) = %v, want ok %v", tt.password, err, tt.ok)
		}
	}
}

// never more hashes at a time than there are slots, and a wait ends with its
// context.
func TestR19_HashConcurrency(t *testing.T) {
	h := NewHasher(1)
	if err := h.acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Verify(ctx, "{SSHA}b2JqZWN0c2FsdHNhbHRzYWx0c2FsdHNhbHQ=", "x"); !errors.Is(err, covey.Unavailable) {
		t.Errorf("Verify without a slot: %v, want unavailable", err)
	}
	h.release()
	if _, err := h.Hash(t.Context(), "x"); err != nil {
		t.Errorf("Hash with a slot: %v", err)
	}
}

func FuzzCheck(f *testing.F) {
	for _, tt := range foreign {
		f.Add(tt.hash)
	}
	f.Add("{ARGON2ID}$argon2id$v=19$m=1,t=1,p=1$$")
	f.Add("{SSHA.HEX}00")
	f.Fuzz(func(t *testing.T, hash string) {
		v, err := parse(hash)
		if err != nil {
			return
		}
		if a, ok := v.(argon2Hash); ok && (a.memory > 64 || a.passes > 4) {
			return
		}
		if s, ok := v.(shaCrypt); ok && s.rounds > 5000 {
			return
		}
		if b, ok := v.(bcryptHash); ok && string(b[4:6]) > "05" {
			return
		}
		v.verify("password")
	})
}
