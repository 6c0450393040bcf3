package vm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"
)

// Accelerator is what runs the guest's instructions.
type Accelerator string

// KVM uses the processor's virtualisation, TCG emulates.
const (
	KVM Accelerator = "kvm"
	TCG Accelerator = "tcg"
)

// probeTime is what a guest gets to show that KVM works. It needs one second where it does. Where it does not, /dev/kvm opens and
// the firmware runs, and then nothing more comes.
const probeTime = 20 * time.Second

// probeMarker is the last thing that a kernel without a root file system says: it went through all of its own start.
const probeMarker = "Kernel panic - not syncing"

// What an emulated processor spends most of its time on is translation: a start of K3s alone fills QEMU's usual gigabyte with it, and then
// all of it is done again.
var emulated = []string{"-accel", "tcg,thread=multi,tb-size=2047", "-cpu", "max"}

// hugePages is for the C library to ask for them wherever it allocates. A third of an emulated processor's time goes into finding translated
// code in one large table, nearly all of that into the host's page tables.
const hugePages = "GLIBC_TUNABLES=glibc.malloc.hugetlb=1"

func (a Accelerator) arguments() []string {
	if a == KVM {
		return []string{"-accel", "kvm", "-cpu", "host"}
	}
	return emulated
}

var probed struct {
	sync.Mutex
	accelerator Accelerator
}

// Probe tells whether KVM works here, by booting the kernel with it; once in a process. MUSTER_VM_ACCEL answers in its place.
func Probe(ctx context.Context, kernel string) (Accelerator, error) {
	probed.Lock()
	defer probed.Unlock()
	if probed.accelerator != "" {
		return probed.accelerator, nil
	}
	switch a := Accelerator(os.Getenv("MUSTER_VM_ACCEL")); a {
	case KVM, TCG:
		probed.accelerator = a
		return a, nil
	case "":
	default:
		return "", fmt.Errorf("MUSTER_VM_ACCEL is %q: not %q or %q", a, KVM, TCG)
	}
	a := TCG
	if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err == nil {
		_ = f.Close() // only looked at
		if prints(ctx, KVM, kernel) {
			a = KVM
		}
	}
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("probe KVM: %w", err)
	}
	probed.accelerator = a
	return a, nil
}

// prints tells whether the kernel comes to its end in time.
func prints(ctx context.Context, a Accelerator, kernel string) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	args := append(a.arguments(), "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio", "-m", "256",
		"-kernel", kernel, "-append", "console=ttyS0 panic=-1")
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	dieWithParent(cmd)
	out, _ := cmd.Output() // what it printed is the answer, however it ended
	return bytes.Contains(out, []byte(probeMarker))
}
