package upgrade

import "github.com/muster-edge/muster/upgrade/grub"

// Labels of the file systems.
const (
	LabelGRUB       = "COS_GRUB"
	LabelOEM        = "COS_OEM"
	LabelRecovery   = "COS_RECOVERY"
	LabelState      = "COS_STATE"
	LabelPersistent = "COS_PERSISTENT"
)

// Slot names.
const (
	Active   = grub.SlotActive
	Passive  = grub.SlotPassive
	Recovery = grub.SlotRecovery
)

// Paths inside COS_STATE and COS_RECOVERY.
const (
	SlotDir = "cOS"
)

// Paths inside a slot.
const (
	ImageDir     = "usr/lib/muster/image"
	fileFeatures = "usr/lib/muster/features"
	fileGRUB     = "grub.cfg"
	fileImage    = "image.json"
	fileBoot     = "boot.sha256"
	fileHashes   = "files.sha256"
	fileKernel   = "/boot/vmlinuz"
	fileInitrd   = "/boot/initrd"
	lostAndFound = "lost+found"
)

const mib = 1 << 20

// SlotSize returns the size of the slot file, in bytes, of an image whose files take so many.
func SlotSize(imageBytes int64) int64 { return roundUp(imageBytes+imageBytes/10+64*mib, mib) }

// SlotFile returns the path of a slot inside its file system.
func SlotFile(slot string) string { return SlotDir + "/" + slot + ".img" }

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
