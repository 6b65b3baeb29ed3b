package password

import (
	"encoding/base64"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/xdg-go/scram"
)

// The verifiers of doveadm pw -s SCRAM-SHA-256.
func TestScramMatchesDovecot(t *testing.T) {
	for _, tt := range []struct{ password, verifier string }{
		{"pencil", "{SCRAM-SHA-256}4096,sdw2wObhiL0JOwLW6pGZiQ==,EGdzactDs3mqr8IFLEgcEH67SNVxOUcUGxcTQ+1AxDU=,n2QxbkJpoqPSv4NsSMVrkDY0Bh0gAzBfStvgFPJg99E="},
		{"corréct horse", "{SCRAM-SHA-256}4096,oX49259VL9w7h+4jy88Hnw==,BjxAMGY/q11643edAKXUIPxxNi1vnfkAle2aKVUif+M=,t7YOZFvcSs/nnwZs8bvAh8a7krtTEw/IbU5B2rtaJ0E="},
	} {
		want, err := ParseScram(tt.verifier)
		if err != nil {
			t.Fatal(err)
		}
		got := deriveScram(tt.password, want.Salt, want.Iterations)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("verifier of %q (-dovecot +got):\n%s", tt.password, diff)
		}
		if got.String() != tt.verifier {
			t.Errorf("String() = %s, want %s", got, tt.verifier)
		}
	}
}

// A client in the other library reaches the same keys, through SASLprep.
func TestScramMatchesClient(t *testing.T) {
	const password = "pass\u00a0wo\u00adrd" // a blank that is mapped, a soft hyphen that is dropped
	v := newScram(password)
	client, err := scram.SHA256.NewClient("u", password, "")
	if err != nil {
		t.Fatal(err)
	}
	creds, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: string(v.Salt), Iters: v.Iterations})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(creds.StoredKey, v.StoredKey); diff != "" {
		t.Errorf("StoredKey (-client +got):\n%s", diff)
	}
	if diff := cmp.Diff(creds.ServerKey, v.ServerKey); diff != "" {
		t.Errorf("ServerKey (-client +got):\n%s", diff)
	}
}

func TestParseScramRefuses(t *testing.T) {
	key := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for _, s := range []string{
		"", "4096,AAAA," + key + "," + key,
		"{SCRAM-SHA-256}1,AAAA," + key + "," + key,
		"{SCRAM-SHA-256}99999999,AAAA," + key + "," + key,
		"{SCRAM-SHA-256}4096,," + key + "," + key,
		"{SCRAM-SHA-256}4096,AAAA," + key,
		"{SCRAM-SHA-256}4096,AAAA,AAAA," + key,
		"{SCRAM-SHA-256}4096,AAAA,!," + key,
	} {
		if v, err := ParseScram(s); err == nil {
			t.Errorf("ParseScram(%q) = %v, want an error", s, v)
		}
	}
}

func FuzzParseScram(f *testing.F) {
	f.Add(newScram("x").String())
	f.Add("{SCRAM-SHA-256}4096,AAAA,,")
	f.Fuzz(func(t *testing.T, s string) {
		v, err := ParseScram(s)
		if err != nil {
			return
		}
		again, err := ParseScram(v.String())
		if err != nil {
			t.Fatalf("ParseScram of %q from %q: %v", v, s, err)
		}
		if diff := cmp.Diff(v, again); diff != "" {
			t.Errorf("%q changed (-before +after):\n%s", s, diff)
		}
	})
}
