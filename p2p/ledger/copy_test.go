package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/muster-edge/muster/p2p"
)

var errDisk = errors.New("no space left on device")

// brokenDisk fails while full; Append leaves half of what it was given.
type brokenDisk struct{ full bool }

func (d *brokenDisk) Append(f *os.File, b []byte) error {
	if d.full {
		_, _ = f.Write(b[:len(b)/2])
		return errDisk
	}
	_, err := f.Write(b)
	return err
}

func (d *brokenDisk) WriteFile(path string, b []byte) error {
	if d.full {
		return errDisk
	}
	return os.WriteFile(path, b, 0o600)
}

func openCopy(t require.TestingT, dir string, disk copyDisk) *replica {
	r, err := openReplica(dir, Site{ID: "s"}, disk, &p2p.Notifier{})
	require.NoError(t, err)
	return r
}

func change1(t require.TestingT, prev, index uint64) committed {
	return committed{prev: prev, index: index, data: encoded(t, "A", Txn{ID: testID(int(index))}.Set(fmt.Sprint("k", index%5), []byte{byte(index)}))}
}

// Whatever the disk does and whenever the power fails, what was shown of a
// stream is there again, and a reopened copy is a state that there was.
func TestFollowersCopyNeverGoesBack(t *testing.T) {
	base := t.TempDir()
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		dir := filepath.Join(base, fmt.Sprint(run))
		require.NoError(t, os.MkdirAll(dir, 0o700))
		disk := &brokenDisk{}
		r := openCopy(t, dir, disk)
		want := newState()
		index := uint64(0)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0:
				disk.full = !disk.full
			case 1: // power cut: nothing is closed properly
				require.NoError(t, r.close())
				if rapid.Bool().Draw(t, "torn") {
					f, err := os.OpenFile(filepath.Join(dir, copyLogFile), os.O_APPEND|os.O_WRONLY, 0)
					require.NoError(t, err)
					junk := appendFrame(nil, []committed{change1(t, index, index+9)})
					_, err = f.Write(junk[:rapid.IntRange(1, len(junk)-1).Draw(t, "length")])
					require.NoError(t, err)
					require.NoError(t, f.Close())
				}
				r = openCopy(t, dir, disk)
			case 2:
				far := newState()
				require.NoError(t, copyState(far, want))
				far.apply(index+7, change1(t, 0, index+7).data)
				if r.install(far.encode()) == nil {
					want, index = far, index+7
				}
			default:
				batch := []committed{change1(t, index, index+2), change1(t, index+2, index+3)}
				if err := r.follow(batch); err == nil {
					for _, c := range batch {
						want.apply(c.index, c.data)
					}
					index += 3
				} else {
					require.ErrorIs(t, err, errDisk)
					require.ErrorIs(t, r.err(), errDisk)
				}
			}
			require.Equal(t, index, r.view().Index())
			require.Equal(t, want.encode(), r.encode())
		}
		require.NoError(t, r.close())
	})
}

func copyState(to, from *state) error {
	s, err := decodeState(from.encode())
	if err == nil {
		*to = *s
	}
	return err
}

func TestVoterDecidesOnWhileItsCopyCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	disk := &brokenDisk{full: true}
	r := openCopy(t, dir, disk)
	res := r.apply([]committed{change1(t, 0, 3)})
	require.Equal(t, outcomeCommitted, res[0].outcome)
	require.ErrorIs(t, r.err(), errDisk)
	require.Equal(t, uint64(3), r.view().Index())

	disk.full = false
	r.apply([]committed{change1(t, 0, 4), change1(t, 0, 4)}) // Raft's commands carry no prev, and may repeat
	require.NoError(t, r.err())
	require.NoError(t, r.close())
	require.Equal(t, uint64(4), openCopy(t, dir, disk).view().Index())
}

func TestGapInTheStreamIsNoticed(t *testing.T) {
	r := openCopy(t, t.TempDir(), realDisk{})
	require.NoError(t, r.follow([]committed{change1(t, 0, 3)}))
	require.ErrorContains(t, r.follow([]committed{change1(t, 4, 5)}), "follows 4")
	require.NoError(t, r.follow([]committed{change1(t, 0, 3), change1(t, 3, 5)}), "what is there already is skipped")
	require.NoError(t, r.install(newState().encode()), "an older snapshot changes nothing")
	require.Equal(t, uint64(5), r.view().Index())
	batch, state := r.since(3)
	require.Len(t, batch, 1)
	require.Nil(t, state)
	_, state = r.since(4)
	require.NotNil(t, state, "an index that never was")
	require.NoError(t, r.close())
}

func TestLongLogIsReplacedByASnapshot(t *testing.T) {
	dir := t.TempDir()
	r := openCopy(t, dir, &brokenDisk{})
	value := make([]byte, MaxValueSize)
	for i := range uint64(64) {
		data := encoded(t, "A", Txn{ID: testID(int(i))}.Set("k", value))
		require.NoError(t, r.follow([]committed{{prev: i, index: i + 1, data: data}}))
	}
	info, err := os.Stat(filepath.Join(dir, copyLogFile))
	require.NoError(t, err)
	require.Less(t, info.Size(), int64(2*compactAt))
	want := r.encode()
	require.NoError(t, r.close())
	require.Equal(t, want, openCopy(t, dir, &brokenDisk{}).encode())
}

func TestDamagedFilesAreNamed(t *testing.T) {
	spoil := func(file string, at int) func(dir string) {
		return func(dir string) {
			path := filepath.Join(dir, file)
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			b[at] ^= 0xff
			require.NoError(t, os.WriteFile(path, b, 0o600))
		}
	}
	for name, tt := range map[string]struct {
		file  string
		spoil func(string)
	}{
		"snapshot head":  {copySnapshotFile, spoil(copySnapshotFile, 0)},
		"snapshot body":  {copySnapshotFile, spoil(copySnapshotFile, 20)},
		"middle of log":  {copyLogFile, spoil(copyLogFile, frameHead+2)},
		"short snapshot": {copySnapshotFile, func(dir string) { require.NoError(t, os.Truncate(filepath.Join(dir, copySnapshotFile), 5)) }},
		"missing command": {copyLogFile, func(dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, copySnapshotFile)))
		}},
	} {
		dir := t.TempDir()
		r := openCopy(t, dir, realDisk{})
		require.NoError(t, r.follow([]committed{change1(t, 0, 1)}))
		require.NoError(t, r.writeSnapshot(r.state))
		require.NoError(t, r.follow([]committed{change1(t, 1, 2)}))
		require.NoError(t, r.follow([]committed{change1(t, 2, 3)}))
		require.NoError(t, r.close())
		tt.spoil(dir)
		_, err := openReplica(dir, Site{ID: "s"}, realDisk{}, &p2p.Notifier{})
		var corrupt *CorruptError
		require.ErrorAs(t, err, &corrupt, name)
		require.Contains(t, corrupt.File, tt.file, name)
	}
	dir := t.TempDir()
	require.NoError(t, openCopy(t, dir, realDisk{}).writeSnapshot(newState()))
	_, err := openReplica(dir, Site{ID: "other"}, realDisk{}, &p2p.Notifier{})
	require.ErrorContains(t, err, "belongs to")
}

func FuzzTakeFrame(f *testing.F) {
	f.Add(appendFrame(nil, []committed{change1(f, 0, 1), change1(f, 1, 5)}))
	f.Add(binary.BigEndian.AppendUint32(nil, 9))
	f.Fuzz(func(t *testing.T, b []byte) {
		batch, size, err := takeFrame(b)
		if err == nil {
			require.Equal(t, b[:size], appendFrame(nil, batch))
		}
	})
}
