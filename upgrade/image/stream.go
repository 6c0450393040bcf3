package image

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
	xzMagic   = []byte("\xfd7zXZ\x00")
	bzipMagic = []byte("BZh")
)

func compressed(start []byte) bool {
	return bytes.HasPrefix(start, gzipMagic) || bytes.HasPrefix(start, zstdMagic) || bytes.HasPrefix(start, xzMagic) || bytes.HasPrefix(start, bzipMagic)
}

// decompress looks at how r starts and not at its name or media type: those are often wrong, and a wrong guess would only
// look like a broken image. The reader must be closed.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 256<<10)
	start, err := b.Peek(len(xzMagic))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var out io.ReadCloser
	switch {
	case bytes.HasPrefix(start, gzipMagic):
		out, err = gzip.NewReader(b)
	case bytes.HasPrefix(start, zstdMagic):
		var d *zstd.Decoder
		// one frame's window is what it may take of our memory
		if d, err = zstd.NewReader(b, zstd.WithDecoderMaxWindow(128<<20), zstd.WithDecoderConcurrency(1)); err == nil {
			out = d.IOReadCloser()
		}
	case bytes.Equal(start, xzMagic):
		var x *xz.Reader
		if x, err = xz.NewReader(b); err == nil {
			out = io.NopCloser(x)
		}
	case bytes.HasPrefix(start, bzipMagic):
		out = io.NopCloser(bzip2.NewReader(b))
	default:
		return io.NopCloser(b), nil
	}
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", damaged(err))
	}
	return damagedReader{out}, nil
}

// damagedReader marks the errors of a decompressor.
type damagedReader struct{ io.ReadCloser }

func (d damagedReader) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = damaged(err)
	}
	return n, err
}

func damaged(err error) error {
	var path *fs.PathError
	switch {
	case errors.As(err, &path): // the disk, not the image
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: %w", ErrTruncated, err)
	}
	return fmt.Errorf("%w: %w", ErrMalformed, err)
}

// boundedReader refuses to hand out more than was announced.
type boundedReader struct {
	r    io.Reader
	left int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("%w: it decompresses to more than it announced", ErrTooLarge)
	}
	return n, err
}

// besideReader hashes what is read through it, on another core: hashing takes as long as decompressing does.
type besideReader struct {
	io.Reader
	pipe *io.PipeWriter
	done chan struct{}
}

// beside returns a reader of r that writes all that is read to sum. The sum is complete when it is closed.
func beside(r io.Reader, sum hash.Hash) *besideReader {
	out, in := io.Pipe()
	b := &besideReader{io.TeeReader(r, in), in, make(chan struct{})}
	go func() {
		defer close(b.done)
		_, _ = io.Copy(sum, out) // neither fails
	}()
	return b
}

func (b *besideReader) Close() {
	_ = b.pipe.Close() // never fails
	<-b.done
}
