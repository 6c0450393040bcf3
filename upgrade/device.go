package upgrade

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// finder finds the partitions of the disk that the machine was started from.
type finder struct {
	sys   string // /sys/class/block
	links string // /dev/disk
	from  string // a device on that disk; empty when nobody said
}

// device returns a partition of that disk by its name: labels may be there twice, with an old disk beside the new one, and a file
// system in whose making the power failed has none. Without such a partition the label decides.
func (f finder) device(label, partition string) string {
	if device := f.beside(partition); device != "" {
		return device
	}
	path := filepath.Join(f.links, "by-label", label)
	if _, err := os.Stat(path); err != nil {
		return filepath.Join(f.links, "by-partlabel", partition)
	}
	return path
}

func (f finder) beside(partition string) string {
	real, err := filepath.EvalSymlinks(filepath.Join(f.sys, filepath.Base(f.from)))
	if f.from == "" || err != nil {
		return ""
	}
	events, err := filepath.Glob(filepath.Join(filepath.Dir(real), "*", "uevent"))
	if err != nil {
		return ""
	}
	for _, event := range events {
		data, err := os.ReadFile(event)
		if err == nil && slices.Contains(strings.Split(string(data), "\n"), "PARTNAME="+partition) {
			return "/dev/" + filepath.Base(filepath.Dir(event))
		}
	}
	return ""
}
