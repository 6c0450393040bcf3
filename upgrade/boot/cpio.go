package boot

import (
	"fmt"
	"io"
)

// cpio writes the newc format (Documentation/driver-api/early-userspace/buffer-format.rst), all of it root's and of 1970.
// Go's standard library has none, and the kernel wants nothing but this.
type cpio struct {
	w     io.Writer
	err   error
	inode int
	at    int
}

const (
	cpioDir    = 0o040000
	cpioFile   = 0o100000
	cpioDevice = 0o020000
)

func (c *cpio) dir(name string) { c.entry(name, cpioDir|0o755, nil, 0, 0) }

func (c *cpio) file(name string, mode int, data []byte) { c.entry(name, cpioFile|mode, data, 0, 0) }

func (c *cpio) device(name string, mode, major, minor int) {
	c.entry(name, cpioDevice|mode, nil, major, minor)
}

// end must be called last; the error of the first call that failed is in err.
func (c *cpio) end() {
	c.inode = -1
	c.entry("TRAILER!!!", 0, nil, 0, 0)
}

func (c *cpio) entry(name string, mode int, data []byte, major, minor int) {
	c.inode++
	c.write(fmt.Appendf(nil, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.inode, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0, name))
	c.pad()
	c.write(data)
	c.pad()
}

func (c *cpio) pad() { c.write(make([]byte, -c.at&3)) }

func (c *cpio) write(data []byte) {
	if c.err != nil {
		return
	}
	_, c.err = c.w.Write(data)
	c.at += len(data)
}
