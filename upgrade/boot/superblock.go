package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

var errFileSystem = errors.New("neither ext4 nor squashfs")

// ext4 superblock, Documentation/filesystems/ext4/super.rst.
const (
	extOffset = 1024
	extMagic  = 0xef53
)

type superblock struct {
	label  string
	uuid   string // as blkid writes it
	blocks uint64
	block  uint64 // bytes
}

// readExt returns false for what is no ext2, 3 or 4.
func readExt(r io.ReaderAt) (superblock, bool) {
	b := make([]byte, 1024)
	if _, err := r.ReadAt(b, extOffset); err != nil || binary.LittleEndian.Uint16(b[0x38:]) != extMagic {
		return superblock{}, false
	}
	shift := binary.LittleEndian.Uint32(b[0x18:])
	if shift > 6 {
		return superblock{}, false
	}
	s := superblock{
		label:  string(b[0x78 : 0x78+16]),
		uuid:   fmt.Sprintf("%x-%x-%x-%x-%x", b[0x68:0x6c], b[0x6c:0x6e], b[0x6e:0x70], b[0x70:0x72], b[0x72:0x78]),
		blocks: uint64(binary.LittleEndian.Uint32(b[0x4:])),
		block:  1024 << shift,
	}
	if binary.LittleEndian.Uint32(b[0x60:])&0x80 != 0 { // INCOMPAT_64BIT
		s.blocks |= uint64(binary.LittleEndian.Uint32(b[0x150:])) << 32
	}
	s.label, _, _ = strings.Cut(s.label, "\x00")
	return s, true
}

func imageType(r io.ReaderAt) (string, error) {
	magic := make([]byte, 4)
	if _, err := r.ReadAt(magic, 0); err == nil && bytes.Equal(magic, []byte("hsqs")) {
		return "squashfs", nil
	}
	if _, ok := readExt(r); ok {
		return "ext4", nil
	}
	return "", errFileSystem
}

func readDevice(device string) superblock {
	f, err := os.Open(device)
	if err != nil {
		return superblock{} // no medium, or gone again
	}
	defer f.Close()
	s, _ := readExt(f)
	return s
}
