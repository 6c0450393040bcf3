package boot

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// probeDeadline is for reading one block; a disk that spins up takes some seconds.
const probeDeadline = 10 * time.Second

// sysBlock is where the kernel lists its block devices.
const sysBlock = "/sys/class/block"

// partitionNames are those of the partitions whose file system may have lost its label, with all else that it held.
var partitionNames = map[string]string{labelOEM: "oem", labelPersistent: "persistent"}

// wanted is what a file system is found by.
type wanted struct {
	label string
	uuid  string // wins over the label; empty is any
	near  string // a device on the disk that is preferred; empty is none
}

// find waits for the block device of a file system.
func (m *machine) find(w wanted, d time.Duration) (string, error) {
	var found string
	if m.wait(d, func() bool { found = m.look(w); return found != "" }) {
		return found, nil
	}
	what := "label " + w.label
	if w.uuid != "" {
		what += ", UUID " + w.uuid
	}
	return "", fmt.Errorf("%w: %s, waited %s, there are: %s", ErrNoState, what, d, strings.Join(m.blockDevices(), " "))
}

// look takes of several file systems one on the disk of near: an installer's stick and the disk of an earlier machine have the same
// labels. Without near it takes the one that the boot loader read.
func (m *machine) look(w wanted) string {
	var found []string
	for _, name := range m.blockDevices() {
		s := m.superblock("/dev/" + name)
		if w.uuid != "" && s.uuid == w.uuid || w.uuid == "" && s.label == w.label {
			found = append(found, "/dev/"+name)
		}
	}
	home := m.disk(w.near)
	for _, device := range found {
		if w.near != "" && m.disk(device) == home {
			return device
		}
	}
	if w.near != "" {
		if device := m.partition(home, partitionNames[w.label]); device != "" {
			return device // what is on it is damaged, and no other machine's is to be taken for it
		}
	}
	switch {
	case len(found) == 0:
		return ""
	case w.near != "":
		m.problem("%s is on another disk than the image: %s", w.label, found[0])
	case len(found) > 1:
		m.problem("more than one disk has %s: %s; %s was taken", w.label, strings.Join(found, ", "), found[0])
	}
	return found[0]
}

// superblock gives a device that does not answer up: a disk that dies and has nothing to do with us must not cost the boot. The read
// cannot be cancelled, its goroutine ends with it or with this program.
func (m *machine) superblock(device string) superblock {
	if m.stuck[device] {
		return superblock{}
	}
	answer := make(chan superblock, 1)
	go func() { answer <- m.probe(device) }()
	timer := time.NewTimer(probeDeadline)
	defer timer.Stop()
	select {
	case s := <-answer:
		return s
	case <-timer.C:
	}
	m.problem("%s does not answer", device)
	if m.stuck == nil {
		m.stuck = map[string]bool{}
	}
	m.stuck[device] = true
	return superblock{}
}

func (m *machine) sys(device string) string {
	return filepath.Join(m.path(sysBlock), filepath.Base(device))
}

// blockDevices are the names of all that may hold a partition of ours, sorted.
func (m *machine) blockDevices() []string {
	all, err := filepath.Glob(m.path(sysBlock) + "/*")
	if err != nil {
		return nil
	}
	var names []string
	for _, p := range all {
		name := filepath.Base(p)
		if !slices.ContainsFunc([]string{"loop", "ram", "zram", "sr", "fd", "nbd"}, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// disk returns the name of the whole disk that a partition is on, or the device's own.
func (m *machine) disk(device string) string {
	real, err := filepath.EvalSymlinks(m.sys(device))
	if device == "" || err != nil {
		return ""
	}
	if _, err := os.Stat(real + "/partition"); err == nil {
		return filepath.Base(filepath.Dir(real))
	}
	return filepath.Base(real)
}

// partition returns the device of the disk's partition of that name, empty when there is none.
func (m *machine) partition(disk, name string) string {
	if disk == "" || name == "" {
		return ""
	}
	for _, device := range m.blockDevices() {
		event, err := os.ReadFile(m.sys(device) + "/uevent")
		if err == nil && m.disk(device) == disk && slices.Contains(strings.Split(string(event), "\n"), "PARTNAME="+name) {
			return "/dev/" + device
		}
	}
	return ""
}
