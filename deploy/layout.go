package deploy

import (
	"errors"
	"fmt"

	"github.com/diskfs/go-diskfs/partition/gpt"

	"github.com/muster-edge/muster/upgrade"
)

const (
	mib        = 1 << 20
	sectorSize = 512
	// gptReserve is what the second copy of the partition table takes at the end, in whole MiB.
	gptReserve = mib
	// leastPersistent is what a machine needs until the file system is grown on its first boot.
	leastPersistent = 256 * mib
)

// ErrTooSmall says that a disk does not hold what is wanted of it; the text has the numbers.
var ErrTooSmall = errors.New("disk is too small")

// Partition is one of the disk of docs/OS.md.
type Partition struct {
	Name, Label string
	Start, Size int64 // bytes

	kind gpt.Type
}

// The partitions, by their place in a layout.
const (
	partBIOS = iota
	partEFI
	partOEM
	partRecovery
	partState
	partPersistent
)

// smallestDisk returns the size of the smallest disk for the image.
func smallestDisk(imageBytes int64) int64 {
	parts := fixed(imageBytes)
	last := parts[len(parts)-1]
	return last.Start + last.Size + gptReserve
}

// layOut returns the partitions of a disk of size bytes for an image of imageBytes, or ErrTooSmall.
func layOut(size, imageBytes int64) ([]Partition, error) {
	if least := smallestDisk(imageBytes); size < least {
		return nil, fmt.Errorf("%w: %d MiB, this image of %d MiB needs %d MiB", ErrTooSmall, size/mib, imageBytes/mib, least/mib)
	}
	parts := fixed(imageBytes)
	last := &parts[partPersistent]
	last.Size = (size-gptReserve)/mib*mib - last.Start
	return parts, nil
}

// fixed returns the layout with the smallest persistent partition.
func fixed(imageBytes int64) []Partition {
	slot := upgrade.SlotSize(imageBytes)
	parts := []Partition{
		{Name: "bios", Size: mib, kind: gpt.BIOSBoot},
		{Name: "efi", Label: upgrade.LabelGRUB, Size: 64 * mib, kind: gpt.EFISystemPartition},
		{Name: "oem", Label: upgrade.LabelOEM, Size: 64 * mib, kind: gpt.LinuxFilesystem},
		{Name: "recovery", Label: upgrade.LabelRecovery, Size: 2*slot + 200*mib, kind: gpt.LinuxFilesystem},
		{Name: "state", Label: upgrade.LabelState, Size: 3*slot + 200*mib, kind: gpt.LinuxFilesystem},
		{Name: "persistent", Label: upgrade.LabelPersistent, Size: leastPersistent, kind: gpt.LinuxFilesystem},
	}
	next := int64(mib)
	for i := range parts {
		parts[i].Start = next
		next += parts[i].Size
	}
	return parts
}

// table returns the partition table.
func table(parts []Partition) *gpt.Table {
	t := &gpt.Table{LogicalSectorSize: sectorSize, PhysicalSectorSize: sectorSize, ProtectiveMBR: true}
	for _, p := range parts {
		t.Partitions = append(t.Partitions, &gpt.Partition{
			Start: uint64(p.Start / sectorSize), Size: uint64(p.Size), Type: p.kind, Name: p.Name,
		})
	}
	return t
}
