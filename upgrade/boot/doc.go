// Package boot is what happens between the boot loader and PID 1 (docs/OS.md, "From GRUB to the agent"): it finds the slot
// that the kernel command line names and assembles the root file system around it.
//
// [Plan] decides: a command line, the layout files that a stage may have written and the devices that were found become an
// ordered list of steps. [Init] does them; cmd/muster-init runs it as /init of the initramfs that [WriteInitrd] makes.
// Nothing here waits without a deadline: a machine that cannot boot an image must reset, so that the boot loader counts.
package boot
