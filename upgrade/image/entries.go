package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

const (
	maxName    = 4095 // PATH_MAX without its NUL
	maxPart    = 255  // NAME_MAX
	maxEntries = 1 << 20

	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	metaPrefix     = ".wh..wh."
	xattrPrefix    = "SCHILY.xattr."
)

// entry is one thing that a layer says, its names checked.
type entry struct {
	*tar.Header
	name   string // relative and clean; empty is the root
	target string // of a hard link, the same form

	whiteout bool // name is to vanish
	opaque   bool // what lower layers put into the directory name is to vanish
	content  io.Reader
}

// budget is what may still be unpacked.
type budget struct {
	bytes   int64
	entries int
}

func (b *budget) take(h *tar.Header) error {
	b.entries--
	b.bytes -= h.Size
	if b.entries < 0 || h.Size < 0 || b.bytes < 0 {
		return fmt.Errorf("%w: at %q", ErrTooLarge, short(h.Name))
	}
	return nil
}

// eachEntry calls do for every entry of a tar. With layered, whiteouts are understood; a plain tree has none.
func eachEntry(ctx context.Context, r io.Reader, layered bool, b *budget, do func(*entry) error) error {
	// The headers are paid for too: a tar of nothing but headers is a bomb as well.
	t := tar.NewReader(contextReader{ctx, r})
	for {
		h, err := t.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return unreadable(ctx, err)
		case h.Typeflag == tar.TypeXGlobalHeader:
			continue
		}
		e, err := parseEntry(h, layered)
		if err != nil {
			return err
		}
		if e == nil {
			continue
		}
		if err := b.take(h); err != nil {
			return err
		}
		e.content = t
		if err := do(e); err != nil {
			return fmt.Errorf("%q: %w", short(h.Name), unreadable(ctx, err))
		}
	}
}

// unreadable gives the errors of tar and of decompression, which do not say whose fault they are, their sentinel.
func unreadable(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: %w", ErrTruncated, err)
	case errors.Is(err, tar.ErrHeader), errors.Is(err, tar.ErrFieldTooLong), errors.Is(err, tar.ErrInsecurePath):
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return err
}

// parseEntry returns nil for what is to be ignored.
func parseEntry(h *tar.Header, layered bool) (*entry, error) {
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo, tar.TypeGNUSparse:
	default:
		return nil, fmt.Errorf("%q: %w: entry of type %q", short(h.Name), ErrMalformed, h.Typeflag)
	}
	e := &entry{Header: h}
	var err error
	if e.name, err = cleanName(h.Name); err != nil {
		return nil, err
	}
	if e.name == "" && h.Typeflag != tar.TypeDir {
		return nil, fmt.Errorf("%w: the root is not a directory", ErrUnsafe)
	}
	switch h.Typeflag {
	case tar.TypeLink:
		if e.target, err = cleanName(h.Linkname); err != nil {
			return nil, fmt.Errorf("%q links to %w", short(h.Name), err)
		}
		if e.target == "" || e.target == e.name {
			return nil, fmt.Errorf("%q: %w: hard link to %q", short(h.Name), ErrMalformed, short(h.Linkname))
		}
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > maxName || strings.Contains(h.Linkname, "\x00") {
			return nil, fmt.Errorf("%q: %w: link to %q", short(h.Name), ErrMalformed, short(h.Linkname))
		}
	}
	if h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeGNUSparse {
		h.Size = 0 // some writers give links the size of their target
	}
	if !layered {
		return e, nil
	}
	dir, base := path.Split(e.name)
	switch hidden, ok := strings.CutPrefix(base, whiteoutPrefix); {
	case !ok:
	case base == opaqueMarker:
		e.name, e.opaque = strings.TrimSuffix(dir, "/"), true
	case strings.HasPrefix(base, metaPrefix):
		return nil, nil // what aufs kept for itself
	case hidden == "" || hidden == "." || hidden == "..":
		return nil, fmt.Errorf("%q: %w: whiteout of a directory that is not its own", short(h.Name), ErrUnsafe)
	default:
		e.name, e.whiteout = dir+hidden, true
	}
	return e, nil
}

// cleanName refuses what could only be meant to reach out of the tree; the kernel would keep it inside anyway.
func cleanName(name string) (string, error) {
	switch {
	case name == "" || strings.Contains(name, "\x00"):
		return "", fmt.Errorf("%q: %w: no name", short(name), ErrMalformed)
	case strings.HasPrefix(name, "/"):
		return "", fmt.Errorf("%q: %w: absolute", short(name), ErrUnsafe)
	case len(name) > maxName:
		return "", fmt.Errorf("%q: %w: name of %d bytes", short(name), ErrMalformed, len(name))
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("%q: %w: leads upwards", short(name), ErrUnsafe)
		}
		if len(part) > maxPart {
			return "", fmt.Errorf("%q: %w: name of %d bytes", short(name), ErrMalformed, len(part))
		}
	}
	if name = path.Clean(name); name == "." {
		return "", nil
	}
	return name, nil
}

// short keeps names that came from outside from filling a log.
func short(name string) string {
	if len(name) > 200 {
		return name[:200] + "…"
	}
	return name
}

// contextReader makes reading end with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}
