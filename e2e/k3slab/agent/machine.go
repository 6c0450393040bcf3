package agent

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"

	cadvisor "github.com/google/cadvisor/info/v1"
	cadvisortest "k8s.io/kubernetes/pkg/kubelet/cadvisor/testing"
)

// machine is kubemark's fake cadvisor, which says "Debian 7 wheezy, 1 CPU", with
// the real kernel, distribution, processors and memory.
type machine struct{ cadvisortest.Fake }

// VersionInfo tells the kernel and the distribution.
func (m *machine) VersionInfo() (*cadvisor.VersionInfo, error) {
	var name syscall.Utsname
	if err := syscall.Uname(&name); err != nil {
		return nil, fmt.Errorf("read the kernel's version: %w", err)
	}
	var release strings.Builder
	for _, c := range name.Release {
		if c == 0 {
			break
		}
		release.WriteByte(byte(c))
	}
	return &cadvisor.VersionInfo{KernelVersion: release.String(), ContainerOsVersion: distribution()}, nil
}

// MachineInfo tells the processors, the memory and the identities.
func (m *machine) MachineInfo() (*cadvisor.MachineInfo, error) {
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return nil, fmt.Errorf("read the machine's memory: %w", err)
	}
	id := content("/etc/machine-id")
	return &cadvisor.MachineInfo{
		NumCores:       runtime.NumCPU(),
		MemoryCapacity: info.Totalram * uint64(info.Unit),
		BootID:         content("/proc/sys/kernel/random/boot_id"),
		MachineID:      id,
		SystemUUID:     id,
		InstanceID:     cadvisor.InstanceID(m.NodeName),
	}, nil
}

func distribution() string {
	for l := range strings.Lines(content("/etc/os-release")) {
		if name, found := strings.CutPrefix(strings.TrimSpace(l), "PRETTY_NAME="); found {
			return strings.Trim(name, `"`)
		}
	}
	return "Linux"
}

// content returns a file's trimmed content, or nothing: a container may lack any of
// these files.
func content(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
