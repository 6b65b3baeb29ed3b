package main

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// What the kernel says of a process that has ended is what it said before, with
// what the children wrote that it waited for.
func TestBytesWrittenInALife(t *testing.T) {
	cmd := exec.Command("sh", "-c", "dd if=/dev/zero of=a bs=64k count=16 conv=fdatasync 2>/dev/null && cat /proc/$$/io")
	cmd.Dir = t.TempDir()
	before, err := writtenBy(os.Getpid())
	if err != nil {
		t.Skip(err) // a kernel that does not count, or that does not tell us
	}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(out), "\nwrite_bytes: ")
	number, _, _ := strings.Cut(rest, "\n")
	want, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if got := writtenInLife(cmd.ProcessState); got != want {
		t.Errorf("%d bytes, want %d", got, want)
	}
	if want == 0 && inMemory(cmd.Dir) {
		t.Skip("temporary files are in memory")
	}
	if want < 1<<20 {
		t.Errorf("1 MiB was synced to a file, %d bytes are said to be written", want)
	}
	if after, err := writtenBy(os.Getpid()); err != nil || after-before < want {
		t.Errorf("we wrote %d bytes by our child, want %d; %v", after-before, want, err)
	}
}

func TestFiguresOfWrites(t *testing.T) {
	w := writes{messages: 5, life: 1.5, load: 1.25, disk: 3}
	list := w.figures("Covey")
	if len(list) != 3 || list[0].Value != 1.5 || list[1].Value != 1.25 || list[2].Value != 3 {
		t.Errorf("got %+v", list)
	}
	if w.disk = -1; len(w.figures("Covey")) != 2 {
		t.Error("a disk that is not known has a figure")
	}
}
