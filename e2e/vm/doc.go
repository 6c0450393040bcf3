// Package vm runs machines in QEMU for tests: disks that are overlays over one built image, BIOS and UEFI, network segments of their
// own, a serial console that can be waited for, commands in the guest, power cuts.
//
//	net, err := vm.NewNetwork(ctx)
//	m, err := vm.Start(ctx, vm.Options{Disk: overlay, Network: net, MAC: …})
//	_, err = m.WaitFor(ctx, regexp.MustCompile(`login:`))
//	out, err := m.Run(ctx, "muster state -o json")
//	m.PowerCut()
//
// A machine that resets gets a new QEMU each time (under emulation the same one becomes slower with each reset), as often as
// Options.Resets allows. KVM is used only after a guest has shown that it works.
//
// Nothing outlives the test's process, not even when that is killed: processes die with it, and network namespaces have no name that would
// keep them. Commands reach the guest by a virtio port that an agent reads; the agent is a script that the machine gets by fw_cfg
// under the name HookName, and that the test variant of the image (deploy/os) runs.
package vm
