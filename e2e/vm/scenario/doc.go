// Package scenario shows on machines that boot in QEMU what an operating system of Muster promises (docs/OS.md). The image is the test
// variant of deploy/os, the same but for a unit that runs what QEMU hands to it; K3s is what K3S_BIN says, else the stand-in.
//
// It needs root, and Debian's packages as e2e/vm/prepare installs them. MUSTER_VM_LOGS=DIR keeps every console and, of a test that
// failed, the journals.
package scenario
