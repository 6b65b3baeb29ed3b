package peer

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/internal/durable/durabletest"
)

// What is derived must never change: nodes of two versions have one secret.
func TestDerivedKeys(t *testing.T) {
	s := testSecret(1)
	if got, want := hex.EncodeToString(s.GossipKey()), "2ceaf798c2de5a991b21e5e67f94b145a6e29229c209d4828d7f148ba58b630e"; got != want {
		t.Errorf("gossip key %s, want %s", got, want)
	}
	if got, want := hex.EncodeToString(s.caKey().Public().(ed25519.PublicKey)), "a2c0ffd1adaea65334af51f3c46696aa81107d77e17f33799fcd004dbb846393"; got != want {
		t.Errorf("CA key %s, want %s", got, want)
	}
}

func TestSecretIsNotPrinted(t *testing.T) {
	s := testSecret(0xab)
	js, err := json.Marshal(map[string]any{"s": s})
	if err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{fmt.Sprint(s), fmt.Sprintf("%v %+v %#v %x %s %q", s, s, s, s, s, s), string(js), fmt.Sprint([]Secret{s})} {
		if strings.Contains(out, "ab") || strings.Contains(out, "171") {
			t.Errorf("%s", out)
		}
	}
}

func TestNewSecret(t *testing.T) {
	s, err := NewSecret(strings.NewReader(strings.Repeat("x", 32)))
	if want := testSecret('x'); err != nil || s != want {
		t.Errorf("got %x, %v", s[:], err)
	}
	if _, err := NewSecret(strings.NewReader("short")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short of random: %v", err)
	}
}

func TestSecretsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cluster.secret")
	for _, want := range [][]Secret{{testSecret(1)}, {testSecret(2), testSecret(1)}} {
		if err := WriteSecrets(durable.OS(), path, want); err != nil {
			t.Fatal(err)
		}
		got, err := ReadSecrets(durable.OS(), path)
		if err != nil || !cmp.Equal(got, want) {
			t.Errorf("got %d secrets, %v", len(got), err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
	}
	for mode, ok := range map[os.FileMode]bool{
		0o400: true, 0o440: true, 0o640: true, 0o644: false, 0o604: false, 0o620: false, 0o602: false, 0o601: false,
	} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := ReadSecrets(durable.OS(), path)
		if ok && err != nil && os.Geteuid() == 0 {
			t.Errorf("mode %o: %v", mode, err)
		}
		if !ok && (covey.KindOf(errOr(err)) != covey.Denied || !strings.Contains(err.Error(), "chmod 600 "+path)) {
			t.Errorf("mode %o: got %v, want a refusal that says what to do", mode, err)
		}
	}
	if _, err := ReadSecrets(durable.OS(), path+"x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for _, bad := range [][]Secret{nil, {{}}, {testSecret(1), testSecret(1)}, {testSecret(1), testSecret(2), testSecret(3)}} {
		wantKind(t, WriteSecrets(durable.OS(), path, bad), covey.Invalid)
	}
}

func TestParseSecrets(t *testing.T) {
	one, two, three := strings.Repeat("01", 32), strings.Repeat("02", 32), strings.Repeat("0C", 32)
	tests := []struct {
		in   string
		want int // secrets; 0 for a refusal
	}{
		{one, 1},
		{one + "\n", 1},
		{"# comment\r\n\r\n  " + one + " \r\n" + three, 2},
		{"", 0},
		{"# nothing else", 0},
		{one[1:], 0},
		{one + "0", 0},
		{"x" + one[1:], 0},
		{one + "\n" + one, 0},
		{one + "\n" + two + "\n" + three, 0},
		{strings.Repeat("0", 64), 0},
		{one + " " + two, 0},
	}
	for _, test := range tests {
		got, err := parseSecrets([]byte(test.in))
		if len(got) != test.want || (err == nil) != (test.want > 0) {
			t.Errorf("%q: got %d secrets, %v", test.in, len(got), err)
		}
	}
}

func FuzzParseSecrets(f *testing.F) {
	f.Add([]byte(strings.Repeat("01", 32)))
	f.Add([]byte("# x\n" + strings.Repeat("0a", 32) + "\n" + strings.Repeat("0B", 32)))
	f.Fuzz(func(t *testing.T, data []byte) {
		secrets, err := parseSecrets(data)
		if err != nil {
			// A secret with a slip of the pen is still one.
			for _, word := range bytes.Fields(data) {
				if len(word) >= 16 && strings.Contains(err.Error(), string(word)) {
					t.Fatalf("%v quotes the file", err)
				}
			}
			return
		}
		disk := durabletest.NewDisk()
		if err := WriteSecrets(disk, "s", secrets); err != nil {
			t.Fatal(err)
		}
		again, err := ReadSecrets(disk, "s")
		if err != nil || !cmp.Equal(again, secrets) {
			t.Fatalf("not the same after writing: %v", err)
		}
	})
}

func TestOpenKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.key")
	random := strings.NewReader(strings.Repeat("r", 32))
	key, err := OpenKey(durable.OS(), path, random)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	again, err := OpenKey(durable.OS(), path, random)
	if err != nil || !again.Equal(key) {
		t.Errorf("opened again: %v", err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = OpenKey(durable.OS(), path, random)
	wantKind(t, err, covey.Denied)
}

// A damaged key is not silently replaced: the directory knows the node by it.
func TestDamagedKey(t *testing.T) {
	rsa := "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
	for _, content := range []string{"", "x", rsa, strings.Repeat("x", maxKeyFile+1)} {
		disk := durabletest.NewDisk()
		if err := durable.WriteFile(disk, "k", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if key, err := OpenKey(disk, "k", strings.NewReader(strings.Repeat("r", 32))); err == nil || key != nil {
			t.Errorf("%.20q: got a key, %v", content, err)
		}
	}
}

// A key that was returned is there after a power cut; one whose writing was cut
// short is made anew.
func TestKeySurvivesPowerCuts(t *testing.T) {
	random := strings.NewReader(strings.Repeat("0123456789abcdef", 1000))
	for seed := range uint64(3) {
		for stop, whole := 0, false; !whole; stop++ {
			disk := durabletest.NewDisk()
			if err := disk.MkdirAll("dir", 0o700); err != nil {
				t.Fatal(err)
			}
			disk.StopAfter(stop)
			key, err := OpenKey(disk, "dir/k", random)
			whole = err == nil
			disk.Crash(seed)
			again, err := OpenKey(disk, "dir/k", random)
			if err != nil || whole && !again.Equal(key) {
				t.Errorf("seed %d, after %d operations: another key than was returned, or %v", seed, stop, err)
			}
		}
	}
}
