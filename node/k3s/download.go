package k3s

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

const (
	// maxBinary bounds a download in bytes; K3s v1.36 has some 80 MB.
	maxBinary = 1 << 30
	// stallTimeout ends a download that brings nothing any more. A slow line that
	// brings something may take as long as it needs.
	stallTimeout = 30 * time.Second
	// partial begins the names of unfinished downloads.
	partial = ".k3s-"
)

// errChecksum marks a download that came whole and is something else.
var errChecksum = errors.New("checksum")

// downloader fetches a binary.
type downloader struct {
	client *http.Client
	stall  time.Duration
	max    int64
}

// fetch puts what url serves under path if its SHA-256 is want, whole or not at
// all.
func (d downloader) fetch(ctx context.Context, url string, want []byte, path string) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(d.stall, func() { cancel(fmt.Errorf("nothing came for %s", d.stall)) })
	defer stall.Stop()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := d.client.Do(request)
	if err != nil {
		return because(ctx, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("server answered %s", response.Status)
	}
	f, err := createPartial(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			// The first error is the one to report.
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	sum := sha256.New()
	body := &watched{r: io.LimitReader(response.Body, d.max+1), progress: func() { stall.Reset(d.stall) }}
	n, err := io.Copy(io.MultiWriter(f, sum), body)
	if err != nil {
		return because(ctx, err)
	}
	if n > d.max {
		return fmt.Errorf("more than %d bytes", d.max)
	}
	if got := sum.Sum(nil); !bytes.Equal(got, want) {
		return fmt.Errorf("%w is %x, the configuration says %x; nothing was installed", errChecksum, got, want)
	}
	if err := f.Chmod(0o755); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// createPartial removes what a power cut left of earlier attempts and begins
// anew.
func createPartial(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	leftovers, err := filepath.Glob(filepath.Join(dir, partial+"*"))
	if err != nil {
		return nil, err
	}
	for _, leftover := range leftovers {
		if err := os.Remove(leftover); err != nil {
			return nil, err
		}
	}
	return os.CreateTemp(dir, partial+"*")
}

// because prefers the reason why ctx ended to "context canceled".
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// watched calls progress whenever bytes came.
type watched struct {
	r        io.Reader
	progress func()
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if n > 0 {
		w.progress()
	}
	return n, err
}
