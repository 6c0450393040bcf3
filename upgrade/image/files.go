package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
)

func openFiles(ctx context.Context, at string) (files, error) {
	st, err := os.Stat(at)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("%w: %w", ErrNotFound, err)
	case err != nil:
		return nil, err
	case st.IsDir():
		root, err := os.OpenRoot(at)
		if err != nil {
			return nil, err
		}
		return folder{root}, nil
	}
	return openTarFiles(ctx, at)
}

// folder is a layout as a folder.
type folder struct{ root *os.Root }

func (d folder) open(name string) (io.ReadCloser, int64, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w: not a file", name, ErrMalformed)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, st.Size(), nil
}

func (d folder) close() error { return d.root.Close() }

// tarFiles is a layout as a tar, read where it lies.
type tarFiles struct {
	f  *os.File
	at map[string]span
}

type span struct{ offset, size int64 }

func openTarFiles(ctx context.Context, at string) (_ files, err error) {
	f, err := os.Open(at)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	start := make([]byte, len(xzMagic))
	if _, err := io.ReadFull(f, start); err == nil && compressed(start) {
		return nil, fmt.Errorf("%w: the archive is compressed; decompress it first (its layers are already)", ErrMalformed)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	t := &tarFiles{f: f, at: map[string]span{}}
	links := map[string]string{} // older archives link equal layers to each other
	r := tar.NewReader(contextReadSeeker{contextReader{ctx, f}, f})
	for n := 0; ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read archive: %w: %w", ErrMalformed, err)
		}
		if n > 1<<16 {
			return nil, fmt.Errorf("read archive: %w: more than %d entries", ErrTooLarge, 1<<16)
		}
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			offset, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return nil, err
			}
			t.at[name] = span{offset, h.Size}
		case tar.TypeSymlink:
			links[name] = path.Join(path.Dir(name), h.Linkname)
		case tar.TypeLink:
			links[name] = path.Clean(h.Linkname)
		}
	}
	for name, target := range links {
		if s, ok := t.at[target]; ok {
			t.at[name] = s
		}
	}
	return t, nil
}

// contextReadSeeker lets the tar reader skip content.
type contextReadSeeker struct {
	contextReader
	io.Seeker
}

func (t *tarFiles) open(name string) (io.ReadCloser, int64, error) {
	s, ok := t.at[path.Clean(name)]
	if !ok {
		return nil, 0, &os.PathError{Op: "open", Path: t.f.Name() + ": " + name, Err: os.ErrNotExist}
	}
	return io.NopCloser(io.NewSectionReader(t.f, s.offset, s.size)), s.size, nil
}

func (t *tarFiles) close() error { return t.f.Close() }
