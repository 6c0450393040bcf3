package boot

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// softdog is loaded only where there is no other watchdog.
const softdog = "softdog"

// loadModules loads what the list names, in its order: WriteInitrd put what a module needs before it. A module whose hardware is not there
// says so; whether something is missing shows when it is needed.
func (m *machine) loadModules(listFile string) {
	data, err := os.ReadFile(listFile)
	if err != nil {
		m.problem("read the list of modules: %v", err)
		return
	}
	var count int
	for _, file := range strings.Fields(string(data)) {
		if moduleName(file) == softdog {
			continue
		}
		if err := loadModule(file); err == nil {
			count++
		} else if !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENOENT) { // ENOENT: what it builds on is not there
			m.logf("%v", err)
		}
	}
	m.logf("%d modules", count)
}

func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".")
	return strings.ReplaceAll(name, "-", "_")
}

func loadModule(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("module: %w", err)
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("module %s: %w", moduleName(file), err)
	}
	return nil
}
