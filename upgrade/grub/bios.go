package grub

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const sectorSize = 512

// Where boot.img and the first sector of core.img (GRUB's diskboot.img) keep what they are told: boot.S and diskboot.S.
const (
	bootKernelSector = 0x5c
	bootDrive        = 0x64
	bootDriveCheck   = 0x66
	bootPartitions   = 0x1b8 // disk signature and partition table
	coreBlockList    = 0x1f4
	coreSegment      = 0x820
)

// ErrBootImage says that boot.img or core.img are not GRUB's for BIOS, or do not fit.
var ErrBootImage = errors.New("not GRUB for BIOS")

// InstallBIOS writes core at sector lba, where room sectors are, and then the boot sector that starts it, as
// grub-bios-setup does; what a partition table keeps in the first sector stays. The boot sector comes last, so that a disk whose
// installation was cut does not start half of it; the caller syncs.
func InstallBIOS(disk interface {
	io.ReaderAt
	io.WriterAt
}, boot, core []byte, lba, room uint64,
) error {
	if len(boot) != sectorSize || boot[510] != 0x55 || boot[511] != 0xaa {
		return fmt.Errorf("%w: boot.img of %d bytes", ErrBootImage, len(boot))
	}
	sectors := uint64(len(core)+sectorSize-1) / sectorSize
	if sectors < 2 || sectors > room {
		return fmt.Errorf("%w: core.img of %d sectors, there is room for %d", ErrBootImage, sectors, room)
	}
	first := make([]byte, sectorSize)
	if _, err := disk.ReadAt(first, 0); err != nil {
		return fmt.Errorf("read boot sector: %w", err)
	}
	sector := append([]byte(nil), boot...)
	copy(sector[bootPartitions:510], first[bootPartitions:510])
	binary.LittleEndian.PutUint64(sector[bootKernelSector:], lba)
	sector[bootDrive] = 0xff                                      // the drive that the BIOS names
	sector[bootDriveCheck], sector[bootDriveCheck+1] = 0x90, 0x90 // no jump: trust it

	padded := make([]byte, sectors*sectorSize)
	copy(padded, core)
	list := padded[coreBlockList:]
	binary.LittleEndian.PutUint64(list, lba+1)
	binary.LittleEndian.PutUint16(list[8:], uint16(sectors-1))
	binary.LittleEndian.PutUint16(list[10:], coreSegment)
	if _, err := disk.WriteAt(padded, int64(lba)*sectorSize); err != nil {
		return fmt.Errorf("write core.img: %w", err)
	}
	if _, err := disk.WriteAt(sector, 0); err != nil {
		return fmt.Errorf("write boot sector: %w", err)
	}
	return nil
}
