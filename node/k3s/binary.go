package k3s

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Source says where K3s comes from: the image first, then a configured path,
// then a download.
type Source struct {
	// Path is k3s.binary.
	Path string
	// URL and SHA256 (hex) are k3s.url and k3s.sha256; a download without a
	// checksum is refused.
	URL, SHA256 string
}

// wellKnown are the places where images and K3s's own installer put it.
var wellKnown = []string{"/usr/bin/k3s", "/usr/local/bin/k3s"}

const (
	// maxBinary bounds a download in bytes; K3s v1.36 has some 80 MB.
	maxBinary = 1 << 30
	// stallTimeout ends a download that brings nothing any more.
	stallTimeout = 30 * time.Second
)

// find returns the path of a K3s binary and downloads it into dir where there
// is none yet. A download that is interrupted or whose checksum is wrong leaves
// nothing behind.
func (s Source) find(ctx context.Context, dir string, client *http.Client) (string, error) {
	candidates := wellKnown
	if s.Path != "" {
		candidates = append(candidates[:len(candidates):len(candidates)], s.Path)
	}
	for _, path := range candidates {
		if executable(path) {
			return path, nil
		}
	}
	if s.URL == "" {
		return "", fmt.Errorf("%w: looked at %s; put one there or set k3s.url and k3s.sha256", ErrNoBinary, strings.Join(candidates, ", "))
	}
	want, err := hex.DecodeString(s.SHA256)
	if err != nil || len(want) != sha256.Size {
		return "", fmt.Errorf("%w: k3s.url needs k3s.sha256, 64 hexadecimal digits", ErrNoBinary)
	}
	path := filepath.Join(dir, "k3s-"+s.SHA256[:16])
	if executable(path) {
		return path, nil
	}
	if err := download(ctx, client, s.URL, want, path); err != nil {
		return "", fmt.Errorf("download k3s from %s: %w", s.URL, err)
	}
	return path, nil
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

func download(ctx context.Context, client *http.Client, url string, want []byte, path string) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("server answered %s", response.Status)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".k3s-*")
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
	stall := time.AfterFunc(stallTimeout, func() { cancel(fmt.Errorf("nothing came for %s", stallTimeout)) })
	defer stall.Stop()
	body := &watched{r: io.LimitReader(response.Body, maxBinary+1), progress: func() { stall.Reset(stallTimeout) }}
	n, err := io.Copy(io.MultiWriter(f, sum), body)
	if err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	if n > maxBinary {
		return fmt.Errorf("more than %d bytes", maxBinary)
	}
	if got := sum.Sum(nil); string(got) != string(want) {
		return fmt.Errorf("checksum is %x, k3s.sha256 says %x; nothing was installed", got, want)
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

// version asks the binary, which prints "k3s version v1.36.3+k3s1 (abcdef)".
func version(ctx context.Context, binary string) (string, error) {
	out, err := exec.CommandContext(ctx, binary, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", binary, err)
	}
	fields := strings.Fields(string(out))
	if len(fields) < 3 || fields[0] != "k3s" {
		return "", fmt.Errorf("ask %s for its version: it is not k3s", binary)
	}
	return fields[2], nil
}
