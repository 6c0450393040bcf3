package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// Logs copies what the agent of a node has written, over all its lives, to w. With follow it goes on until ctx ends, or the
// lab does; neither is an error.
func (l *Lab) Logs(ctx context.Context, name string, w io.Writer, follow bool) error {
	if _, _, err := l.find(name); err != nil {
		return err
	}
	f, err := os.Open(l.logPath(name))
	if err != nil {
		return fmt.Errorf("logs of %s: %w", name, err)
	}
	defer f.Close()
	for {
		if _, err := io.Copy(w, f); err != nil {
			return fmt.Errorf("logs of %s: %w", name, err)
		}
		if !follow {
			return nil
		}
		if err := pause(ctx, pollInterval); err != nil {
			return nil // being told to stop is how following ends
		}
		if _, err := os.Stat(l.logPath(name)); errors.Is(err, os.ErrNotExist) {
			return nil
		}
	}
}
