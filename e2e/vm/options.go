package vm

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"
)

// Firmware is what starts the boot loader.
type Firmware string

// The firmware that QEMU has: SeaBIOS on the PC of 1996, and OVMF on a Q35.
const (
	BIOS Firmware = "bios"
	UEFI Firmware = "uefi"
)

// HookName is the fw_cfg file that the image's test variant runs as a shell script once its system is up.
const HookName = "opt/muster/run"

// portName is the virtio port that the guest's agent reads.
const portName = "muster.e2e"

// Options describe a machine.
type Options struct {
	// Name tells machines apart in logs. Default "vm".
	Name string
	// Disk is a qcow2 file that the machine writes to (NewOverlay). Not needed with Kernel.
	Disk string
	// MoreDisks are further disks, raw or qcow2 by their name's end.
	MoreDisks []string
	// Firmware is BIOS when empty.
	Firmware Firmware
	// Kernel, Initrd and Append boot a kernel without disk and boot loader.
	Kernel, Initrd, Append string
	// MemoryMiB is 1024 when 0; CPUs 2.
	MemoryMiB, CPUs int
	// Network is the segment that the machine is on; nil means no network card.
	Network *Network
	// MAC is the card's address; the next of its network when empty.
	MAC string
	// Script runs in the guest before its agent, as HookName says.
	Script string
	// Files are further fw_cfg files, by name, e.g. "opt/muster/token".
	Files map[string]string
	// Resets is how often a machine that resets is started again. Default 12; less than 0 means not once.
	Resets int
	// LogDir gets the console's log. Default: the environment's MUSTER_VM_LOGS, else a folder that Close removes.
	LogDir string
	// ClockOffset is how far the machine's clock is ahead of this machine's when its power comes on.
	ClockOffset time.Duration
	// Snapshot is the snapshot of Disk (Machine.Save) to go on from in place of the first boot.
	Snapshot string
}

const (
	defaultMemory = 1024
	defaultCPUs   = 2
	defaultResets = 12
)

func (o Options) withDefaults() (Options, error) {
	if o.Name == "" {
		o.Name = "vm"
	}
	if o.Firmware == "" {
		o.Firmware = BIOS
	}
	if o.MemoryMiB == 0 {
		o.MemoryMiB = defaultMemory
	}
	if o.CPUs == 0 {
		o.CPUs = defaultCPUs
	}
	if o.Resets == 0 {
		o.Resets = defaultResets
	}
	if o.Firmware != BIOS && o.Firmware != UEFI {
		return o, fmt.Errorf("firmware is %q: not %q or %q", o.Firmware, BIOS, UEFI)
	}
	if o.Disk == "" && o.Kernel == "" {
		return o, errors.New("neither a disk nor a kernel to boot")
	}
	if o.MAC != "" {
		if _, err := net.ParseMAC(o.MAC); err != nil {
			return o, fmt.Errorf("MAC: %w", err)
		}
	}
	return o, nil
}

// paths are the files that connect a running machine to its harness.
type paths struct {
	hook, monitor, agent, vars, code string
	files                            map[string]string
}

// arguments returns QEMU's command line for a machine; tap is empty without a network.
func arguments(o Options, a Accelerator, p paths, tap string) []string {
	args := append([]string{"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"}, a.arguments()...)
	if o.Firmware == UEFI {
		args = append(args, "-machine", "q35",
			"-drive", "if=pflash,format=raw,readonly=on,file="+p.code,
			"-drive", "if=pflash,format=raw,file="+p.vars)
	} else {
		args = append(args, "-machine", "pc")
	}
	args = append(
		args, "-m", strconv.Itoa(o.MemoryMiB), "-smp", strconv.Itoa(o.CPUs), "-name", o.Name,
		"-serial", "stdio",
		"-chardev", "socket,id=monitor,path="+p.monitor, "-mon", "chardev=monitor,mode=control",
		"-device", "virtio-serial-pci",
		"-chardev", "socket,id=agent,path="+p.agent, "-device", "virtserialport,chardev=agent,name="+portName,
		"-device", "virtio-rng-pci",
		"-fw_cfg", "name="+HookName+",file="+p.hook,
	)
	for _, name := range sortedKeys(p.files) {
		args = append(args, "-fw_cfg", "name="+name+",file="+p.files[name])
	}
	if o.Disk != "" {
		args = append(args, "-drive", "if=virtio,format=qcow2,file="+o.Disk)
	}
	for _, disk := range o.MoreDisks {
		args = append(args, "-drive", "if=virtio,format="+diskFormat(disk)+",file="+disk)
	}
	if tap != "" {
		args = append(args, "-netdev", "tap,id=net0,ifname="+tap+",script=no,downscript=no",
			// Without its ROM, so that no firmware tries to boot from the network.
			"-device", "virtio-net-pci,netdev=net0,romfile=,mac="+o.MAC)
	}
	if o.Kernel != "" {
		args = append(args, "-kernel", o.Kernel, "-append", o.Append)
		if o.Initrd != "" {
			args = append(args, "-initrd", o.Initrd)
		}
	}
	if o.ClockOffset != 0 {
		args = append(args, "-rtc", "base="+time.Now().Add(o.ClockOffset).UTC().Format("2006-01-02T15:04:05"))
	}
	if o.Snapshot != "" {
		args = append(args, "-loadvm", o.Snapshot)
	}
	return args
}

func diskFormat(path string) string {
	if filepath.Ext(path) == ".qcow2" {
		return "qcow2"
	}
	return "raw"
}

// stopTime is what a machine gets to power itself off, and a killed QEMU to be gone.
const stopTime = time.Minute
