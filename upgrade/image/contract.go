package image

import (
	"bufio"
	"bytes"
	"debug/buildinfo"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// Missing is a thing of the image contract (docs/OS.md) that a tree lacks, or has and must not.
type Missing struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

func (m Missing) String() string { return m.Path + ": " + m.Reason }

var (
	releasePaths = []string{"etc/os-release", "usr/lib/os-release"}

	contractDirs = []string{"oem", "usr/local", "proc", "sys", "dev", "run", "tmp", "var", "etc", "root", "home"}
	contractGrub = []string{"usr/lib/muster/grub/boot.img", "usr/lib/muster/grub/core.img", "usr/lib/muster/grub/BOOTX64.EFI"}
	contractNot  = []struct{ path, reason string }{
		{"usr/lib/muster/image", "must not exist: it is written when a slot is made"},
		{"usr/local/bin/muster", "must not exist: /usr/local is mounted over"},
		{"usr/local/sbin/muster", "must not exist: /usr/local is mounted over"},
	}
)

// initPath is what the build information of muster-init says.
const initPath = "cmd/muster-init"

// Check returns what the tree at root lacks to be an image for the platform ("linux/amd64"), or nil. It reads and changes
// nothing.
func Check(root, platform string) []Missing {
	r, err := openRootDir(root)
	if err != nil {
		return []Missing{{"/", err.Error()}}
	}
	defer r.close()
	want, err := v1.ParsePlatform(platform)
	if err != nil {
		return []Missing{{"/", fmt.Sprintf("platform %q: %v", platform, err)}}
	}
	c := &check{root: r, want: *want}
	c.kernel()
	c.oneOf([]string{"usr/lib/systemd/systemd", "sbin/init"}, "a PID 1", c.executable)
	c.demand("usr/bin/muster", c.binary)
	c.release()
	for _, name := range contractGrub {
		c.demand(name, c.file)
	}
	for _, name := range contractDirs {
		c.demand(name, c.directory)
	}
	c.oneOf([]string{"sbin/mkfs.ext4", "usr/sbin/mkfs.ext4"}, "it makes file systems", c.executable)
	for _, not := range contractNot {
		if _, err := r.stat(not.path, false); err == nil {
			c.miss(not.path, "%s", not.reason)
		}
	}
	return c.missing
}

type check struct {
	root    *rootDir
	want    v1.Platform
	missing []Missing
}

func (c *check) miss(name, format string, args ...any) {
	c.missing = append(c.missing, Missing{"/" + name, fmt.Sprintf(format, args...)})
}

// demand notes what is wrong with name.
func (c *check) demand(name string, look func(name string) error) {
	if err := look(name); err != nil {
		c.miss(name, "%s", plainly(err))
	}
}

func (c *check) oneOf(names []string, what string, look func(name string) error) {
	for _, name := range names {
		if look(name) == nil {
			return
		}
	}
	c.miss(names[0], "%s (%s); or /%s", plainly(look(names[0])), what, strings.Join(names[1:], ", /"))
}

func plainly(err error) string {
	switch {
	case errors.Is(err, unix.ENOENT):
		return "is missing"
	case errors.Is(err, unix.ENOTDIR):
		return "is missing: the path leads through a file"
	}
	return err.Error()
}

func (c *check) file(name string) error {
	st, err := c.root.stat(name, true)
	switch {
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("is not a regular file")
	case st.Size == 0:
		return errors.New("is empty")
	}
	return nil
}

// real is a file that is no link: GRUB follows links in ways of its own.
func (c *check) real(name string) error {
	st, err := c.root.stat(name, false)
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return errors.New("is a link, it must be the file itself")
	}
	return c.file(name)
}

func (c *check) executable(name string) error {
	if err := c.file(name); err != nil {
		return err
	}
	if st, err := c.root.stat(name, true); err != nil || st.Mode&0o111 == 0 {
		return errors.New("is not executable")
	}
	return nil
}

func (c *check) directory(name string) error {
	st, err := c.root.stat(name, true)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return errors.New("is not a directory")
	}
	return err
}

func (c *check) binary(name string) error {
	if err := c.executable(name); err != nil {
		return err
	}
	f, err := c.root.open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	start := make([]byte, 64)
	if _, err := io.ReadFull(f, start); err != nil {
		return errors.New("is not a program")
	}
	return c.runs(start)
}

// runs says whether a program that starts like this runs on the platform.
func (c *check) runs(start []byte) error {
	switch platform := binaryPlatform(start); {
	case platform == "":
		return errors.New("is not an ELF program")
	case !offers(platform, v1.Platform{OS: c.want.OS, Architecture: c.want.Architecture}):
		return fmt.Errorf("is for %s, wanted is %s", platform, c.want.String())
	}
	return nil
}

func (c *check) kernel() {
	c.demand("boot/vmlinuz", c.real)
	modules := "usr/lib/modules"
	if version := c.kernelVersion(); version != "" {
		c.demand(modules+"/"+version, c.directory)
	} else if !c.hasDirectory(modules) {
		c.miss(modules, "holds no directory with the modules of the kernel")
	}
	if err := c.real("boot/initrd"); err != nil {
		c.miss("boot/initrd", "%s", plainly(err))
		return
	}
	if err := c.initrd("boot/initrd"); err != nil {
		c.miss("boot/initrd", "%s", err)
	}
}

func (c *check) hasDirectory(name string) bool {
	f, err := c.root.open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	found, err := f.ReadDir(-1)
	if err != nil {
		return false
	}
	for _, d := range found {
		if d.IsDir() {
			return true
		}
	}
	return false
}

// kernelVersion reads the version from an x86 kernel (Linux, Documentation/arch/x86/boot.rst: kernel_version); empty if
// it is another kind of file.
func (c *check) kernelVersion() string {
	f, err := c.root.open("boot/vmlinuz")
	if err != nil {
		return ""
	}
	defer f.Close()
	header := make([]byte, 0x210)
	if _, err := io.ReadFull(f, header); err != nil || !bytes.Equal(header[0x202:0x206], []byte("HdrS")) {
		return ""
	}
	text := make([]byte, 128)
	n, _ := f.ReadAt(text, int64(binary.LittleEndian.Uint16(header[0x20e:]))+0x200) // a short read is a short version
	version, _, _ := strings.Cut(string(text[:n]), "\x00")
	version, _, _ = strings.Cut(version, " ")
	if strings.ContainsRune(version, '/') {
		return ""
	}
	return version
}

// initrd looks for muster-init in a chain of cpio archives: plain ones with microcode first, then a compressed one.
func (c *check) initrd(name string) error {
	f, err := c.root.open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	program, err := findInit(f)
	if err != nil {
		return err
	}
	if err := c.runs(program); err != nil {
		return fmt.Errorf("its /init %w", err)
	}
	if info, err := buildinfo.Read(bytes.NewReader(program)); err != nil || !strings.HasSuffix(info.Path, initPath) {
		return errors.New("its /init is not muster-init")
	}
	return nil
}

// release demands what os-release(5) calls the image.
func (c *check) release() {
	for _, name := range releasePaths {
		f, err := c.root.open(name)
		if err != nil {
			continue
		}
		data, err := io.ReadAll(io.LimitReader(f, 64<<10))
		_ = f.Close() // only read
		if err != nil {
			c.miss(name, "%s", plainly(err))
			return
		}
		values := parseRelease(data)
		for _, key := range []string{"IMAGE_ID", "IMAGE_VERSION"} {
			if values[key] == "" {
				c.miss(name, "%s is not set", key)
			}
		}
		return
	}
	c.miss(releasePaths[0], "is missing (IMAGE_ID and IMAGE_VERSION); or /%s", releasePaths[1])
}

// parseRelease reads os-release(5), as far as it is used: KEY=VALUE with or without quotes.
func parseRelease(data []byte) map[string]string {
	values := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		key, value, ok := strings.Cut(strings.TrimSpace(lines.Text()), "=")
		if !ok || strings.HasPrefix(key, "#") {
			continue
		}
		if len(value) >= 2 && (value[0] == '"' || value[0] == '\'') && value[len(value)-1] == value[0] {
			value = value[1 : len(value)-1]
		}
		values[key] = value
	}
	return values
}

// releaseOf reads os-release of a tree on disk.
func releaseOf(root string) (map[string]string, error) {
	r, err := openRootDir(root)
	if err != nil {
		return nil, err
	}
	defer r.close()
	for _, name := range releasePaths {
		f, err := r.open(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		defer f.Close()
		data, err := io.ReadAll(io.LimitReader(f, 64<<10))
		return parseRelease(data), err
	}
	return nil, nil
}
