package report

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine returns, in one line, what a reader must know of the machine to judge its figures. What cannot be read is
// left out.
func Machine() string {
	facts := []string{fmt.Sprintf("%d × %s", runtime.NumCPU(), or(value("/proc/cpuinfo", "model name", ":"), runtime.GOARCH))}
	if size, ok := gibibytes(value("/proc/meminfo", "MemTotal", ":")); ok {
		facts = append(facts, size)
	}
	if name := strings.Trim(value("/etc/os-release", "PRETTY_NAME", "="), `"`); name != "" {
		facts = append(facts, name)
	}
	var kernel unix.Utsname
	if unix.Uname(&kernel) == nil {
		facts = append(facts, "Linux "+unix.ByteSliceToString(kernel.Release[:]))
	}
	facts = append(facts, runtime.Version())
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		facts = append(facts, "load before the run "+strings.Fields(string(load))[0])
	}
	return strings.Join(facts, ", ")
}

// value returns the first value of a key in a file of lines of key, separator and value; empty if there is none.
func value(path, key, separator string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return find(string(content), key, separator)
}

func find(content, key, separator string) string {
	for line := range strings.Lines(content) {
		name, rest, ok := strings.Cut(line, separator)
		if ok && strings.TrimSpace(name) == key {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// gibibytes rewrites /proc/meminfo's "24620368 kB".
func gibibytes(size string) (string, bool) {
	number, ok := strings.CutSuffix(size, " kB")
	if !ok {
		return "", false
	}
	kibibytes, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return "", false
	}
	return fmt.Sprintf("%.0f GiB", kibibytes/(1<<20)), true
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
