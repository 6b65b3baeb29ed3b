package containers

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// project is the name of what the test brings up, so that it meets nothing else.
const project = "covey-test"

// patience bounds every wait; the first build of an image takes its time apart.
const patience = 3 * time.Minute

// engine runs docker, or docker compose, and returns what it printed.
func engine(t *testing.T, in string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Minute) // also in cleanups
	defer cancel()
	if args[0] == "compose" {
		args = append([]string{"-p", project, "-f", "../../deploy/compose.yaml"}, args[1:]...)
		if exec.Command("docker", "compose", "version").Run() == nil {
			args = append([]string{"docker", "compose"}, args...)
		} else {
			args = append([]string{"docker-compose"}, args...)
		}
	} else {
		args = append([]string{"docker"}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(in)
	cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT=0", "BUILDER=covey-builder")
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		// A build tells on its output what went wrong.
		err = fmt.Errorf("%s: %w\n%s%s", strings.Join(args, " "), err, out[max(0, len(out)-4<<10):], errs.String())
	}
	return string(out), err
}

func must(t *testing.T, in string, args ...string) string {
	t.Helper()
	out, err := engine(t, in, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// waitFor asks until something holds.
func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for by := time.Now().Add(patience); !cond(); <-time.After(500 * time.Millisecond) {
		if time.Now().After(by) {
			t.Fatalf("waited %v in vain: %s", patience, what)
		}
	}
}

// bringUp makes the image as for machines without a registry, and brings the
// compose file up; all goes with the test but the images.
func bringUp(t *testing.T) {
	t.Helper()
	if os.Getenv("COVEY_CONTAINERS") == "" {
		t.Skip("needs a Docker engine: run it with COVEY_CONTAINERS=1, as make containers does")
	}
	if _, err := engine(t, "", "version"); err != nil {
		t.Skipf("no Docker engine answers: %v", err)
	}
	if _, err := engine(t, "", "image", "inspect", "covey-builder"); err != nil {
		if out, err := exec.Command("./builder.sh", "covey-builder").CombinedOutput(); err != nil {
			t.Fatalf("builder.sh: %v\n%s", err, out)
		}
	}
	down := func() {
		if _, err := engine(t, "", "compose", "down", "-v", "-t", "30"); err != nil {
			t.Error(err)
		}
	}
	down() // of a run that was broken off
	t.Cleanup(down)
	must(t, "", "compose", "build")
	must(t, "", "compose", "up", "-d")
}

// container returns the name of a service's container.
func container(service string, running string) string {
	for line := range strings.Lines(running) {
		name := strings.TrimSpace(line)
		if strings.Contains(name, service) {
			return name
		}
	}
	return ""
}

// A cluster is the three containers.
type cluster struct {
	t     *testing.T
	names map[string]string // of containers, by service
}

func (c cluster) inspect(service, format string) string {
	c.t.Helper()
	return strings.TrimSpace(must(c.t, "", "inspect", "-f", format, c.names[service]))
}

func (c cluster) covey(service, in string, args ...string) string {
	c.t.Helper()
	return must(c.t, in, append([]string{"exec", "-i", c.names[service], "/covey"}, args...)...)
}

// addr returns where a port of a container is reached from this host.
func (c cluster) addr(service, port string) string {
	c.t.Helper()
	ip := c.inspect(service, "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
	return net.JoinHostPort(ip, port)
}

// send delivers a message and returns why it was not taken.
func (c cluster) send(service, to, subject string) error {
	conn, err := net.DialTimeout("tcp", c.addr(service, "25"), 10*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	r := textproto.NewConn(conn)
	if _, _, err := r.ReadResponse(2); err != nil {
		return err
	}
	for _, cmd := range []struct {
		line string
		code int
	}{
		{"EHLO client.example.net", 2}, {"MAIL FROM:<carol@example.net>", 2}, {"RCPT TO:<" + to + ">", 2}, {"DATA", 3},
		{"Subject: " + subject + "\r\n\r\nbody of " + subject + "\r\n.", 2},
	} {
		if err := r.PrintfLine("%s", cmd.line); err != nil {
			return err
		}
		if _, _, err := r.ReadResponse(cmd.code); err != nil {
			return err
		}
	}
	return nil
}

// subjects reads a user's INBOX by IMAP over TLS.
func (c cluster) subjects(service, user string) (list []string, err error) {
	d := tls.Dialer{
		NetDialer: &net.Dialer{Timeout: 10 * time.Second},
		Config:    &tls.Config{InsecureSkipVerify: true}, // the node made its certificate itself
	}
	conn, err := d.DialContext(c.t.Context(), "tcp", c.addr(service, "993"))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return nil, err
	}
	r := bufio.NewReader(conn)
	for _, cmd := range []string{"LOGIN " + user + " secret", "SELECT INBOX", "FETCH 1:* (BODY.PEEK[HEADER.FIELDS (SUBJECT)])"} {
		if _, err := fmt.Fprintf(conn, "a %s\r\n", cmd); err != nil {
			return nil, err
		}
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return nil, err
			}
			if s, ok := strings.CutPrefix(line, "Subject: "); ok {
				list = append(list, strings.TrimSpace(s))
			}
			if strings.HasPrefix(line, "a ") {
				if !strings.HasPrefix(line, "a OK") {
					return nil, fmt.Errorf("%s: %s", cmd, line)
				}
				break
			}
		}
	}
	return list, nil
}

// status is what a node tells of nodes and shards.
func (c cluster) status(service string) (s struct {
	Node   string
	Nodes  []struct{ State string }
	Shards []struct {
		Leader   string
		Replicas []struct {
			Learner, Silent bool
		}
	}
}) {
	c.t.Helper()
	if err := json.Unmarshal([]byte(c.covey(service, "", "status", "--json")), &s); err != nil {
		c.t.Fatal(err)
	}
	return s
}

// settled reports whether all shards have three replicas.
func (c cluster) settled(service string) bool {
	s := c.status(service)
	for _, sh := range s.Shards {
		voters := 0
		for _, r := range sh.Replicas {
			if !r.Learner && !r.Silent {
				voters++
			}
		}
		if voters != 3 || sh.Leader == "" {
			return false
		}
	}
	return len(s.Nodes) == 3 && len(s.Shards) > 1
}

// The compose file makes a cluster by itself. Mail that one container takes is read
// from another; one is killed and mail goes on; one is stopped in good order, within
// 20 seconds; both come back.
func TestComposeUp(t *testing.T) {
	bringUp(t)
	c := cluster{t, make(map[string]string)}
	running := must(t, "", "ps", "-a", "--format", "{{.Names}}", "--filter", "label=com.docker.compose.project="+project)
	nodes := []string{"node1", "node2", "node3"}
	for _, s := range nodes {
		if c.names[s] = container(s, running); c.names[s] == "" {
			t.Fatalf("no container of %s among\n%s", s, running)
		}
	}
	for _, s := range nodes {
		waitFor(t, s+" is healthy", func() bool { return c.inspect(s, "{{.State.Health.Status}}") == "healthy" })
	}
	if size, err := strconv.ParseInt(strings.TrimSpace(must(t, "", "image", "inspect", "-f", "{{.Size}}", "covey")), 10, 64); err != nil || size >= 40<<20 {
		t.Errorf("the image has %d bytes (%v), want less than 40 MiB", size, err)
	}
	if user := c.inspect("node1", "{{.Config.User}}"); user != "65532:65532" {
		t.Errorf("it runs as %q", user)
	}
	c.covey("node2", "", "domain", "add", "example.org")
	const user = "alice@example.org"
	c.covey("node3", "secret\n", "user", "add", user)
	waitFor(t, "every shard has three replicas", func() bool { return c.settled("node1") })

	var sent []string
	mail := func(through, subject string) {
		t.Helper()
		waitFor(t, subject+" is taken", func() bool {
			err := c.send(through, user, subject)
			if err != nil {
				t.Logf("%s: %v", subject, err)
			}
			return err == nil
		})
		sent = append(sent, subject)
	}
	reads := func(at string) {
		t.Helper()
		var got []string
		waitFor(t, at+" shows what was sent", func() bool {
			var err error
			got, err = c.subjects(at, user)
			return err == nil && len(got) >= len(sent)
		})
		slices.Sort(got)
		if want := slices.Sorted(slices.Values(sent)); !slices.Equal(got, want) {
			t.Errorf("%s shows %q, want %q", at, got, want)
		}
	}
	mail("node1", "first")
	reads("node2")

	must(t, "", "kill", c.names["node1"])
	mail("node3", "without node1")
	reads("node2")
	must(t, "", "start", c.names["node1"])
	waitFor(t, "node1 has caught up", func() bool {
		return c.inspect("node1", "{{.State.Health.Status}}") == "healthy" && c.settled("node2")
	})

	began := time.Now()
	must(t, "", "stop", "-t", "30", c.names["node2"])
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("stopping took %v, want at most 20 s", took)
	}
	if code := c.inspect("node2", "{{.State.ExitCode}}"); code != "0" {
		t.Errorf("stopped with status %s", code)
	}
	mail("node1", "without node2")
	reads("node3")
	must(t, "", "start", c.names["node2"])
	waitFor(t, "node2 is back", func() bool { return c.inspect("node2", "{{.State.Health.Status}}") == "healthy" })
	reads("node2")
}
