package image

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// openPlain opens a root tree, or the tar of one. Both become one layer, so that there is one way to unpack.
func openPlain(ctx context.Context, scheme, path string, want v1.Platform) (*Image, error) {
	// The agent may change its directory between Open and Unpack.
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(path)
	switch {
	case os.IsNotExist(err):
		return nil, fmt.Errorf("%w: %w", ErrNotFound, err)
	case err != nil:
		return nil, err
	case scheme == "dir" && !st.IsDir():
		return nil, fmt.Errorf("%w: it is not a directory; a tar is file:PATH", ErrReference)
	case scheme == "file" && !st.Mode().IsRegular():
		return nil, fmt.Errorf("%w: it is not a file; a directory is dir:PATH", ErrReference)
	}
	i := &Image{limit: math.MaxInt64 / 2, layers: []layer{{open: func(ctx context.Context) (io.ReadCloser, error) {
		return streamTree(ctx, path), nil
	}}}}
	if scheme == "file" {
		i.layers[0].open = func(context.Context) (io.ReadCloser, error) { return os.Open(path) }
		i.limit = st.Size()*maxGrowth + tarRoom
	}
	s := newSurvey(true)
	if err := i.eachLayer(ctx, s.add); err != nil {
		return nil, err
	}
	i.learn(s)
	i.identity.ID = s.id()
	i.identity.Platform = want.String()
	if n := s.lookup("usr/bin/muster"); n != nil {
		if found := binaryPlatform(n.small); found != "" && !offers(found, want) {
			return nil, fmt.Errorf("%w: wanted is %s, /usr/bin/muster is for %s", ErrPlatform, want.String(), found)
		}
	}
	return i, nil
}

// treeStream is a directory as a tar.
type treeStream struct {
	*io.PipeReader
	done chan struct{}
}

func streamTree(ctx context.Context, dir string) *treeStream {
	r, w := io.Pipe()
	t := &treeStream{r, make(chan struct{})}
	go func() {
		defer close(t.done)
		w.CloseWithError(writeTree(ctx, w, dir, time.Time{}, false))
	}()
	return t
}

func (t *treeStream) Close() error {
	err := t.PipeReader.Close() // the writer's next write fails
	<-t.done
	return err
}

var machines = map[elf.Machine]string{
	elf.EM_X86_64: "linux/amd64", elf.EM_AARCH64: "linux/arm64", elf.EM_RISCV: "linux/riscv64", elf.EM_ARM: "linux/arm", elf.EM_386: "linux/386",
}

// binaryPlatform reads what an ELF file runs on from its header; empty if it is none.
func binaryPlatform(start []byte) string {
	if len(start) < 20 || !bytes.HasPrefix(start, []byte(elf.ELFMAG)) {
		return ""
	}
	machine := elf.Machine(uint16(start[18]) | uint16(start[19])<<8)
	if start[elf.EI_DATA] == byte(elf.ELFDATA2MSB) {
		machine = elf.Machine(uint16(start[19]) | uint16(start[18])<<8)
	}
	if name := machines[machine]; name != "" {
		return name
	}
	return machine.String()
}
