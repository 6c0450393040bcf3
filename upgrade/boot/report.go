package boot

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Report is /run/muster/boot.json: how this boot went.
type Report struct {
	Slot        string   `json:"slot"`
	Image       string   `json:"image"`
	Reset       bool     `json:"reset"`
	StateDevice string   `json:"state_device"`
	Problems    []string `json:"problems"` // in sentences, never null
}

func (r Report) write(name string) error {
	if r.Problems == nil {
		r.Problems = []string{}
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(name, append(data, '\n'))
}

// writeFile is for /run: aside and renamed for readers, nothing there to sync.
func writeFile(name string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(name+".new", data, 0o644); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// problem notes what went wrong without ending the boot.
func (m *machine) problem(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	m.logf("problem: %s", text)
	m.report.Problems = append(m.report.Problems, text)
}

// logf writes to the console with the uptime, and to the kernel's log at a level that is not printed again, for the journal.
func (m *machine) logf(format string, args ...any) {
	text := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "; ")
	console := m.console
	if console == nil {
		console = os.Stderr
	}
	fmt.Fprintf(console, "[muster-init %s] %s\n", uptime(), text) //nolint:errcheck // a console that is gone must not stop the boot
	if m.kmsg != nil {
		fmt.Fprintf(m.kmsg, "<7>muster-init: %s\n", text) //nolint:errcheck // the same
	}
}

func uptime() string {
	data, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return "?"
	}
	seconds, _, _ := strings.Cut(string(data), " ")
	return seconds
}

// openConsole replaces what the kernel gave: /dev/console of the initramfs may be missing.
func (m *machine) openConsole() {
	if f, err := os.OpenFile("/dev/console", os.O_WRONLY, 0); err == nil {
		m.console = f
	}
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		m.kmsg = f
	}
}
