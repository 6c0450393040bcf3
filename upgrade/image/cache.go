package image

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// cache is a folder of verified blobs, blobs/sha256/HEX as in an OCI layout, and of partial ones, partial/HEX. A name in
// blobs appears only when its content is complete, verified and on the disk.
type cache struct {
	dir       string
	temporary bool
	verified  map[v1.Hash]bool // by this process
}

func openCache(dir string) (*cache, error) {
	c := &cache{dir: dir, verified: map[v1.Hash]bool{}}
	if dir == "" {
		made, err := os.MkdirTemp("", "muster-image-")
		if err != nil {
			return nil, fmt.Errorf("make cache: %w", err)
		}
		c.dir, c.temporary = made, true
	}
	for _, sub := range []string{"blobs/sha256", "partial"} {
		if err := os.MkdirAll(filepath.Join(c.dir, sub), 0o700); err != nil {
			return nil, errors.Join(fmt.Errorf("make cache: %w", err), c.close())
		}
	}
	return c, nil
}

func (c *cache) close() error {
	if c.temporary {
		return os.RemoveAll(c.dir)
	}
	return nil
}

func (c *cache) path(h v1.Hash) string { return filepath.Join(c.dir, "blobs", "sha256", h.Hex) }

// has says whether a blob is there and still what it was: what a disk gives back after months is looked at again.
func (c *cache) has(d v1.Descriptor) (bool, error) {
	if c.verified[d.Digest] {
		return true, nil
	}
	f, err := os.Open(c.path(d.Digest))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err == nil && size == d.Size && checkSum("", sum, d.Digest) == nil {
		c.verified[d.Digest] = true
		return true, nil
	}
	return false, os.Remove(c.path(d.Digest))
}

func (c *cache) open(d v1.Descriptor) (io.ReadCloser, error) { return os.Open(c.path(d.Digest)) }

// put stores a small blob whose digest was checked.
func (c *cache) put(h v1.Hash, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Join(c.dir, "partial"), "small-")
	if err != nil {
		return fmt.Errorf("cache blob: %w", err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), c.path(h))
	}
	if err != nil {
		return fmt.Errorf("cache blob %s: %w", h, errors.Join(err, os.Remove(f.Name())))
	}
	c.verified[h] = true
	return syncDir(filepath.Dir(c.path(h)))
}

// lock keeps other processes from writing to the same partial blobs.
func (c *cache) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(c.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("image cache %s: another process is pulling into it: %w", c.dir, err)
	}
	return func() { _ = f.Close() }, nil // closing unlocks
}

// partial is a blob on its way in.
type partial struct {
	cache *cache
	d     v1.Descriptor
	f     *os.File
	sum   hash.Hash
	size  int64
	older bool // some of it is from an earlier run
}

// begin continues what an earlier attempt left.
func (c *cache) begin(d v1.Descriptor) (*partial, error) {
	f, err := os.OpenFile(filepath.Join(c.dir, "partial", d.Digest.Hex), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	p := &partial{cache: c, d: d, f: f, sum: sha256.New()}
	if p.size, err = io.Copy(p.sum, f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	p.older = p.size > 0
	if p.size > d.Size {
		if err := p.restart(); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return p, nil
}

// restart forgets what was received.
func (p *partial) restart() error {
	p.sum.Reset()
	p.size, p.older = 0, false
	if _, err := p.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return p.f.Truncate(0)
}

func (p *partial) Write(b []byte) (int, error) {
	if p.size+int64(len(b)) > p.d.Size {
		return 0, fmt.Errorf("blob %s: %w: it is longer than the %d bytes that were announced", p.d.Digest, ErrDigest, p.d.Size)
	}
	n, err := p.f.Write(b)
	p.sum.Write(b[:n])
	p.size += int64(n)
	return n, err
}

// finish verifies the blob and gives it its name. A wrong one is removed.
func (p *partial) finish() error {
	if err := checkSum("blob "+p.d.Digest.String(), p.sum, p.d.Digest); err != nil {
		return errors.Join(err, p.restart())
	}
	if err := p.f.Sync(); err != nil {
		return err
	}
	target := p.cache.path(p.d.Digest)
	if err := os.Rename(p.f.Name(), target); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(target)); err != nil {
		return err
	}
	p.cache.verified[p.d.Digest] = true
	return nil
}

func (p *partial) close() {
	if p.size == 0 && !p.cache.verified[p.d.Digest] {
		_ = os.Remove(p.f.Name()) // nothing to continue
	}
	_ = p.f.Close() // what is not synced is hashed again anyway
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
