// Package procfs reads the few things that the benchmarks want from /proc. The parsers take the file's content, so that
// they are tested against files kept from real machines.
package procfs

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// Traffic is what a link has carried since it exists, in bytes.
type Traffic struct {
	Received, Sent uint64
}

// Total returns both directions together.
func (t Traffic) Total() uint64 { return t.Received + t.Sent }

// ParseNetDev reads /proc/net/dev: traffic by name of the link.
func ParseNetDev(content []byte) (map[string]Traffic, error) {
	links := map[string]Traffic{}
	for line := range strings.Lines(string(content)) {
		name, counters, ok := strings.Cut(line, ":")
		if !ok {
			continue // the two lines of headings
		}
		fields := strings.Fields(counters)
		if len(fields) != 16 {
			return nil, fmt.Errorf("parse /proc/net/dev: link %q has %d counters, want 16", strings.TrimSpace(name), len(fields))
		}
		received, err := strconv.ParseUint(fields[0], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("parse /proc/net/dev: %w", err)
		}
		sent, err := strconv.ParseUint(fields[8], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("parse /proc/net/dev: %w", err)
		}
		links[strings.TrimSpace(name)] = Traffic{Received: received, Sent: sent}
	}
	return links, nil
}

// ParseLocalAddresses reads /proc/net/fib_trie: the IPv4 addresses that the namespace calls its own, without loopback,
// in the order of the file, each once.
func ParseLocalAddresses(content []byte) ([]netip.Addr, error) {
	var (
		addresses []netip.Addr
		leaf      string
		seen      = map[netip.Addr]bool{}
	)
	for line := range strings.Lines(string(content)) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, "|-- "); ok {
			leaf = rest
			continue
		}
		if line != "/32 host LOCAL" {
			continue
		}
		address, err := netip.ParseAddr(leaf)
		if err != nil {
			return nil, fmt.Errorf("parse /proc/net/fib_trie: %w", err)
		}
		if !address.IsLoopback() && !seen[address] {
			seen[address] = true
			addresses = append(addresses, address)
		}
	}
	return addresses, nil
}

// Memory is the resident set of a process, in bytes.
type Memory struct {
	RSS  uint64 // now
	Peak uint64 // highest ever (VmHWM)
}

// ParseMemory reads /proc/PID/status.
func ParseMemory(content []byte) (Memory, error) {
	var m Memory
	for key, into := range map[string]*uint64{"VmRSS:": &m.RSS, "VmHWM:": &m.Peak} {
		_, rest, ok := bytes.Cut(content, []byte("\n"+key))
		if !ok {
			return Memory{}, fmt.Errorf("parse /proc/PID/status: no %s", strings.TrimSuffix(key, ":"))
		}
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		fields := strings.Fields(string(line))
		if len(fields) != 2 || fields[1] != "kB" {
			return Memory{}, fmt.Errorf("parse /proc/PID/status: %s %q, want a number of kB", key, line)
		}
		kibibytes, err := strconv.ParseUint(fields[0], 10, 64)
		if err != nil {
			return Memory{}, fmt.Errorf("parse /proc/PID/status: %w", err)
		}
		*into = kibibytes * 1024
	}
	return m, nil
}

// ReadMemory returns the resident set of a process.
func ReadMemory(pid int) (Memory, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Memory{}, fmt.Errorf("read memory: %w", err)
	}
	return ParseMemory(content)
}
