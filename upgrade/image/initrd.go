package image

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
)

const (
	cpioMagic   = "070701" // "newc", the only form that the kernel reads beside its checksummed twin
	cpioHeader  = 110
	cpioTrailer = "TRAILER!!!"
	// A muster-init of more than this is not one, and neither is an archive of so many files.
	maxProgram   = 64 << 20
	maxCpioFiles = 1 << 16
	maxArchives  = 8
)

// findInit returns the program /init of an initrd: cpio archives one after another, each plain or compressed, zeros between.
func findInit(r io.Reader) ([]byte, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	for range maxArchives {
		if err := skipZeros(b); err != nil {
			break // the end
		}
		start, _ := b.Peek(len(cpioMagic)) // what is shorter is no archive
		if string(start) == cpioMagic {
			program, err := cpioInit(b)
			if program != nil || err != nil {
				return program, err
			}
			continue
		}
		plain, err := decompress(b)
		if err != nil {
			return nil, fmt.Errorf("is not a cpio archive: %w", err)
		}
		defer plain.Close()
		program, err := cpioInit(bufio.NewReader(&boundedReader{plain, 1 << 30}))
		if program != nil || err != nil {
			return program, err
		}
		break // where a compressed archive ends, the decompressor knows; what follows is not looked at
	}
	return nil, errors.New("holds no /init")
}

func skipZeros(b *bufio.Reader) error {
	for {
		c, err := b.ReadByte()
		if err != nil {
			return err
		}
		if c != 0 {
			return b.UnreadByte()
		}
	}
}

// cpioInit returns nil if the archive ends without /init.
func cpioInit(b *bufio.Reader) ([]byte, error) {
	for range maxCpioFiles {
		header := make([]byte, cpioHeader)
		if _, err := io.ReadFull(b, header); err != nil || !bytes.HasPrefix(header, []byte(cpioMagic)) {
			return nil, errors.New("is not a cpio archive")
		}
		size, err := cpioField(header, 6)
		if err != nil {
			return nil, err
		}
		length, err := cpioField(header, 11)
		if err != nil {
			return nil, err
		}
		if length == 0 || length > maxName+1 {
			return nil, errors.New("is a damaged cpio archive: name")
		}
		name := make([]byte, length+pad(cpioHeader+length))
		if _, err := io.ReadFull(b, name); err != nil {
			return nil, errors.New("is a cpio archive that ends too early")
		}
		name = name[:length-1]
		if string(name) == cpioTrailer {
			return nil, nil
		}
		if path.Clean("/"+string(name)) == "/init" {
			if size > maxProgram {
				return nil, fmt.Errorf("its /init has %d bytes", size)
			}
			program := make([]byte, size)
			if _, err := io.ReadFull(b, program); err != nil {
				return nil, errors.New("is a cpio archive that ends too early")
			}
			return program, nil
		}
		if _, err := io.CopyN(io.Discard, b, size+pad(size)); err != nil {
			return nil, errors.New("is a cpio archive that ends too early")
		}
	}
	return nil, errors.New("is a cpio archive of too many files")
}

// cpioField reads the n-th number of a header: eight hex digits each.
func cpioField(header []byte, n int) (int64, error) {
	at := len(cpioMagic) + 8*n
	v, err := strconv.ParseUint(string(header[at:at+8]), 16, 32)
	if err != nil {
		return 0, errors.New("is a damaged cpio archive: header")
	}
	return int64(v), nil
}

// pad is what is missing to a multiple of four.
func pad(n int64) int64 { return -n & 3 }
