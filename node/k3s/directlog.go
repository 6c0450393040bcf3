package k3s

import (
	"errors"
	"io"
	"io/fs"
	"os"
)

// rotateLog keeps one older log once the log has reached limit bytes. The log is
// copied and cut rather than renamed, because a K3s that runs holds it open; it
// appends, and so goes on at the beginning. The lines of the moment between are
// lost.
func rotateLog(path string, limit int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() < limit || !info.Mode().IsRegular() {
		return err
	}
	older, err := os.OpenFile(path+".1", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	// What cannot be kept is cut all the same: a disk that a log has filled is
	// worse than a log that is lost.
	_, err = io.Copy(older, f)
	return errors.Join(err, older.Close(), f.Truncate(0))
}
