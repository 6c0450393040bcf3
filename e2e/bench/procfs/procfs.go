// Package procfs reads the few things that the benchmarks want from /proc. The parsers take the file's content, so that
// they are tested against files kept from real machines.
package procfs

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
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

// Stat is the part of /proc/PID/stat that the benchmarks use.
type Stat struct {
	Parent int
	Start  time.Duration // after boot, in steps of 10 ms
}

// tick is USER_HZ, which Linux fixes at 100 for programs on every architecture that Go supports.
const tick = 10 * time.Millisecond

// ParseStat reads /proc/PID/stat. The command's name may hold spaces and brackets: fields are counted from the last
// bracket, as proc(5) advises.
func ParseStat(content []byte) (Stat, error) {
	end := bytes.LastIndexByte(content, ')')
	if end < 0 {
		return Stat{}, fmt.Errorf("parse /proc/PID/stat: no command name in %q", content)
	}
	fields := strings.Fields(string(content[end+1:]))
	const parent, start = 4 - 3, 22 - 3 // fields are numbered from 1 in proc(5); 3 is the first after the name
	if len(fields) <= start {
		return Stat{}, fmt.Errorf("parse /proc/PID/stat: %d fields after the name, want at least %d", len(fields), start+1)
	}
	ppid, err := strconv.Atoi(fields[parent])
	if err != nil {
		return Stat{}, fmt.Errorf("parse /proc/PID/stat: %w", err)
	}
	ticks, err := strconv.ParseInt(fields[start], 10, 64)
	if err != nil {
		return Stat{}, fmt.Errorf("parse /proc/PID/stat: %w", err)
	}
	return Stat{Parent: ppid, Start: time.Duration(ticks) * tick}, nil
}

// ParseUptime reads /proc/uptime.
func ParseUptime(content []byte) (time.Duration, error) {
	fields := strings.Fields(string(content))
	if len(fields) != 2 {
		return 0, fmt.Errorf("parse /proc/uptime: %q", content)
	}
	seconds, err := strconv.ParseFloat(fields[0], 64)
	if err != nil {
		return 0, fmt.Errorf("parse /proc/uptime: %w", err)
	}
	return time.Duration(seconds * float64(time.Second)), nil
}

// StartTime returns when a process was started, exact to 20 ms. The result carries the monotonic clock of this process.
func StartTime(pid int) (time.Time, error) {
	stat, err := readStat(pid)
	if err != nil {
		return time.Time{}, err
	}
	content, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return time.Time{}, fmt.Errorf("read time since boot: %w", err)
	}
	now := time.Now()
	uptime, err := ParseUptime(content)
	if err != nil {
		return time.Time{}, err
	}
	return now.Add(stat.Start - uptime), nil
}

// Family returns a process and all that descend from it, the process itself first. Processes that end meanwhile are
// left out.
func Family(pid int) ([]int, error) {
	paths, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	children := map[int][]int{}
	for _, path := range paths {
		child, err := strconv.Atoi(filepath.Base(path))
		if err != nil {
			continue // not a process
		}
		if stat, err := readStat(child); err == nil { // gone between listing and reading: not of the family any more
			children[stat.Parent] = append(children[stat.Parent], child)
		}
	}
	family := []int{pid}
	for i := 0; i < len(family); i++ {
		family = append(family, children[family[i]]...)
	}
	return family, nil
}

// Arguments returns the command line of a process.
func Arguments(pid int) ([]string, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil, fmt.Errorf("read command line: %w", err)
	}
	return strings.Split(strings.TrimRight(string(content), "\x00"), "\x00"), nil
}

func readStat(pid int) (Stat, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Stat{}, fmt.Errorf("read process: %w", err)
	}
	return ParseStat(content)
}
