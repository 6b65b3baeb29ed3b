package main

import (
	"fmt"
	"os/exec"
	"strings"
)

// subnet is known inside the namespaces only; nodes are .1, .2, …, clients .254.
const (
	subnet   = "10.77.0."
	clientIP = subnet + "254"
)

// layBridge makes the bridge that all hosts hang on.
func layBridge() error {
	return all(
		"ip link add br0 type bridge",
		"ip addr add "+clientIP+"/24 dev br0",
		"ip link set br0 up",
	)
}

func all(lines ...string) error {
	for _, l := range lines {
		if err := sh(l); err != nil {
			return err
		}
	}
	return nil
}

// layCable makes a host's network namespace and connects it.
func (h *host) layCable() error {
	return all(
		"ip netns add "+h.name,
		fmt.Sprintf("ip link add %s type veth peer name eth0 netns %s", h.name, h.name),
		fmt.Sprintf("ip link set %s master br0 up", h.name),
		fmt.Sprintf("ip -n %s addr add %s/24 dev eth0", h.name, h.ip),
		fmt.Sprintf("ip -n %s link set eth0 up", h.name),
		fmt.Sprintf("ip -n %s link set lo up", h.name),
	)
}

// plug puts the cable in; unplug pulls it: the peers hear nothing, not even a
// reset, and neither do clients.
func (h *host) plug() error   { return sh("ip link set " + h.name + " up") }
func (h *host) unplug() error { return sh("ip link set " + h.name + " down") }

// deaf makes a host drop what comes in by these rules, silently, until hear.
// Each rule is an nft match, such as "ip saddr 10.77.0.2".
func (h *host) deaf(rules ...string) error {
	var b strings.Builder
	b.WriteString("add table inet chaos\ndelete table inet chaos\ntable inet chaos {\n chain in {\n  type filter hook input priority 0\n")
	for _, r := range rules {
		b.WriteString("  " + r + " drop\n")
	}
	b.WriteString(" }\n}\n")
	cmd := exec.Command("nsenter", "--net=/run/netns/"+h.name, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(b.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft on %s: %w: %s", h.name, err, out)
	}
	return nil
}

// hear ends deaf.
func (h *host) hear() error { return h.deaf() }

// cutBetween drops everything between pairs of hosts, both ways.
func cutBetween(pairs ...[2]*host) error {
	rules := make(map[*host][]string)
	for _, p := range pairs {
		rules[p[0]] = append(rules[p[0]], "ip saddr "+p[1].ip)
		rules[p[1]] = append(rules[p[1]], "ip saddr "+p[0].ip)
	}
	for h, r := range rules {
		if err := h.deaf(r...); err != nil {
			return err
		}
	}
	return nil
}

// throttle limits what a host sends.
func (h *host) throttle(kbit int) error {
	return sh(fmt.Sprintf("tc -n %s qdisc replace dev eth0 root tbf rate %dkbit burst 8kb latency 400ms", h.name, kbit))
}

func (h *host) unthrottle() error {
	return sh(fmt.Sprintf("tc -n %s qdisc del dev eth0 root", h.name))
}
