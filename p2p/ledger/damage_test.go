package ledger

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Whatever is damaged in a voter's folder, opening it is an error or works; it never ends the process.
func TestAVotersDamagedFolderEndsNobody(t *testing.T) {
	s := newSite(t, 1, 1).found()
	n := s.coordinator()
	for i := range 20 {
		_, err := n.Propose(testContext(t), dns(string(rune('a'+i)), "192.0.2.1", 0))
		require.NoError(t, err)
	}
	n.stop()
	kept := map[string][]byte{}
	require.NoError(t, filepath.WalkDir(n.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		kept[path], err = os.ReadFile(path)
		return err
	}))
	var files []string
	for path, b := range kept {
		if len(b) > 0 {
			files = append(files, path)
		}
	}
	slices.Sort(files)
	rand := rand.New(rand.NewPCG(2, 0))
	refused := 0
	for range 40 {
		for path, b := range kept {
			require.NoError(t, os.WriteFile(path, b, 0o600))
		}
		path := files[rand.IntN(len(files))]
		b := append([]byte(nil), kept[path]...)
		if rand.IntN(2) == 0 {
			b = b[:rand.IntN(len(b))]
		} else {
			at := rand.IntN(min(len(b), 16<<10))
			for i := at; i < min(at+1+rand.IntN(64), len(b)); i++ {
				b[i] ^= byte(1 + rand.IntN(255))
			}
		}
		require.NoError(t, os.WriteFile(path, b, 0o600))
		l, err := Open(n.config())
		if err != nil {
			var damage *CorruptError
			require.ErrorAs(t, err, &damage, "%s, %d of %d bytes", path, len(b), len(kept[path]))
			refused++
			continue
		}
		time.Sleep(20 * time.Millisecond) // it reads its log
		require.NoError(t, l.Close())
	}
	require.Positive(t, refused)
}
