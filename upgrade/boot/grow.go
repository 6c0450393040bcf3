package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	blkpgResizePartition = 3
	// ext4IOCResize is EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64): the kernel grows a mounted ext4, no tool needed.
	ext4IOCResize = 0x40086610
	// growStep in bytes: a disk of many TB takes longer than the watchdog waits.
	growStep = 16 << 30
)

// grow makes the partition the rest of its disk, in the table and in the kernel. Done twice it does nothing.
func (m *machine) grow(device string) error {
	name := filepath.Base(device)
	number, err := sysNumber(name, "partition")
	if err != nil {
		return nil //nolint:nilerr // a whole disk has no partition table to write
	}
	parent := m.disk(device)
	sectors, err := sysNumber(parent, "size")
	if err != nil {
		return err
	}
	logical, err := sysNumber(parent, "queue/logical_block_size")
	if err != nil {
		return err
	}
	f, err := os.OpenFile("/dev/"+parent, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	g, err := planGrowth(f, sectors*512, logical, int(number))
	if err != nil {
		return fmt.Errorf("partition table of %s: %w", parent, err)
	}
	if g.grown {
		m.logf("growing %s to %d MiB", name, g.size>>20)
		if err := g.write(f); err != nil {
			return fmt.Errorf("write the partition table of %s: %w", parent, err)
		}
	}
	if now, err := sysNumber(name, "size"); err == nil && now*512 >= g.size {
		return nil
	}
	if err := resizePartition(f, int32(number), g); err != nil {
		return fmt.Errorf("tell the kernel of %s: %w", name, err)
	}
	return nil
}

func (g growth) write(f *os.File) error {
	if _, err := f.WriteAt(g.backup, g.backupAt); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if _, err := f.WriteAt(g.primary, g.primaryAt); err != nil {
		return err
	}
	return f.Sync()
}

// resizePartition needs no rereading of the table, which fails while another partition is mounted.
func resizePartition(disk *os.File, number int32, g growth) error {
	part := unix.BlkpgPartition{Start: int64(g.start), Length: int64(g.size), Pno: number}
	arg := unix.BlkpgIoctlArg{Op: blkpgResizePartition, Datalen: int32(unsafe.Sizeof(part)), Data: (*byte)(unsafe.Pointer(&part))}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, disk.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&arg))); e != 0 {
		return e
	}
	return nil
}

// resize grows the mounted file system to its device.
func (m *machine) resize(device, target string) error {
	f, err := os.Open(device)
	if err != nil {
		return err
	}
	defer f.Close()
	s, ok := readExt(f)
	size, err := f.Seek(0, 2)
	if err != nil || !ok {
		return errors.Join(err, fmt.Errorf("%s: %w", device, errFileSystem))
	}
	blocks := uint64(size) / s.block
	if blocks <= s.blocks || (blocks-s.blocks)*s.block < gptSlack {
		return nil
	}
	dir, err := os.Open(target)
	if err != nil {
		return err
	}
	defer dir.Close()
	for now := s.blocks; now < blocks; {
		m.watchdog.ping()
		now = min(blocks, now+growStep/s.block)
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), ext4IOCResize, uintptr(unsafe.Pointer(&now))); e != 0 {
			return fmt.Errorf("grow the file system on %s to %d blocks: %w", device, now, e)
		}
	}
	m.logf("%s: %d MiB", device, blocks*s.block>>20)
	return nil
}

func sysNumber(device, attribute string) (uint64, error) {
	data, err := os.ReadFile(filepath.Join("/sys/class/block", device, attribute))
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
}
