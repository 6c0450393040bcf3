package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/muster-edge/muster/p2p"
)

const (
	copySnapshotFile = "copy.snapshot"
	copyLogFile      = "copy.log"
	copyMagic        = "MUSTERC1"

	// compactAt bounds the copy's log: beyond it the whole state is written
	// anew. A state has some hundred kB, so a full write per MiB of changes
	// wears a flash disk less than the changes themselves.
	compactAt = 1 << 20

	// recentLimit is how many commands are kept in memory for followers that
	// were away for a moment. One that lags further gets the whole state.
	recentLimit = 512
	recentBytes = 2 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// committed is one command with its place in history: prev is the index of the
// command before it. Raft's indices have gaps (elections, configurations), so
// without prev a follower could not tell a gap from a loss.
type committed struct {
	prev, index uint64
	data        []byte
}

// replica is this node's copy of the committed decisions, in memory and on disk.
// Commands reach it from Raft, from the follower stream, or both; it takes each
// once, in order, and never goes back. What it shows has been fsynced first.
type replica struct {
	dir  string
	site Site
	disk copyDisk

	changed *p2p.Notifier
	current atomic.Pointer[View]

	mu      sync.Mutex
	state   *state
	log     *os.File
	logSize int64
	stale   bool // the log on disk lacks commands that memory has
	problem error
	recent  []committed
	bytes   int // of the commands in recent
}

// copyDisk is the seam for tests that break the disk.
type copyDisk interface {
	Append(f *os.File, b []byte) error
	WriteFile(path string, b []byte) error
}

type realDisk struct{}

func (realDisk) Append(f *os.File, b []byte) error {
	if _, err := f.Write(b); err != nil {
		return err
	}
	return f.Sync()
}

func (realDisk) WriteFile(path string, b []byte) error { return p2p.WriteFile(path, b, 0o600) }

// openReplica reads the copy in dir, or begins an empty one. A file that is not
// what it should be is a *CorruptError; a log whose last write was cut short by
// a power failure is not, since that write was never shown to anybody.
func openReplica(dir string, site Site, disk copyDisk, changed *p2p.Notifier) (*replica, error) {
	r := &replica{dir: dir, site: site, disk: disk, changed: changed}
	if err := r.readSnapshot(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, copyLogFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open ledger copy: %w", err)
	}
	r.log = f
	if err := r.replay(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	r.publish()
	return r, nil
}

// renewReplica begins an empty copy in the place of a damaged one, which is kept
// beside it: the last one, under names that nothing reads.
func renewReplica(dir string, site Site, disk copyDisk, changed *p2p.Notifier) (*replica, error) {
	for _, name := range []string{copySnapshotFile, copyLogFile} {
		path := filepath.Join(dir, name)
		if err := os.Rename(path, path+".damaged"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("set a damaged ledger copy aside: %w", err)
		}
	}
	return openReplica(dir, site, disk, changed)
}

func (r *replica) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Close()
}

func (r *replica) view() View { return *r.current.Load() }

// err says what keeps the copy from being written, nil if nothing does.
func (r *replica) err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.problem
}

// apply takes commands from Raft, which are committed, durable on a quorum and
// in order. A disk that refuses the copy cannot stop them: they are applied in
// memory, and the whole copy is written as soon as the disk takes it.
func (r *replica) apply(batch []committed) []result {
	r.mu.Lock()
	defer r.mu.Unlock()
	fresh := make([]committed, 0, len(batch))
	last := r.state.index
	for _, c := range batch {
		if c.index > last {
			c.prev = last
			last = c.index
			fresh = append(fresh, c)
		}
	}
	r.problem = r.persist(fresh)
	r.advance(fresh)
	results := make([]result, len(batch))
	for i, c := range batch {
		results[i] = r.state.recall(c)
	}
	return results
}

// follow takes commands from another node's stream. Nothing is shown that could
// not be written. A gap is an error: the caller asks again from r's own index.
func (r *replica) follow(batch []committed) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	fresh := make([]committed, 0, len(batch))
	last := r.state.index
	for _, c := range batch {
		switch {
		case c.index <= last:
			continue
		case c.prev != last:
			return fmt.Errorf("follow ledger: command %d follows %d, this copy is at %d", c.index, c.prev, last)
		}
		last = c.index
		fresh = append(fresh, c)
	}
	if err := r.persist(fresh); err != nil {
		r.problem = err
		return err
	}
	r.problem = nil
	r.advance(fresh)
	return nil
}

// install replaces the state by a snapshot, if that is further.
func (r *replica) install(encoded []byte) error {
	s, err := decodeState(encoded)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.index <= r.state.index {
		return nil
	}
	if err := r.writeSnapshot(s); err != nil {
		r.problem = err
		return err
	}
	r.problem = nil
	r.state, r.recent, r.bytes = s, nil, 0
	r.publish()
	return nil
}

// since returns what a copy at index lacks: commands, or the whole state when
// the commands are no longer here. Both are empty when it lacks nothing.
func (r *replica) since(index uint64) (batch []committed, snapshot []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if index >= r.state.index {
		return nil, nil
	}
	for i, c := range r.recent {
		if c.prev == index {
			return append(batch, r.recent[i:]...), nil
		}
	}
	return nil, r.state.encode()
}

// encode returns a snapshot.
func (r *replica) encode() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state.encode()
}

// recall returns what became of an intent, if the window still holds it.
func (r *replica) recall(author peer.ID, id TxnID) (result, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state.lookup(author, id)
}

// dryRun says what would become of t if it were the next command.
func (r *replica) dryRun(t Txn) result {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state.dryRun(t)
}

func (r *replica) advance(batch []committed) {
	if len(batch) == 0 {
		return
	}
	for _, c := range batch {
		r.state.apply(c.index, c.data)
		r.keep(c)
	}
	r.publish()
}

func (r *replica) keep(c committed) {
	r.recent = append(r.recent, c)
	r.bytes += len(c.data)
	drop := 0
	for len(r.recent)-drop > recentLimit || r.bytes > recentBytes {
		r.bytes -= len(r.recent[drop].data)
		drop++
	}
	r.recent = append([]committed(nil), r.recent[drop:]...)
}

func (r *replica) publish() {
	v := r.state.view()
	r.current.Store(&v)
	r.changed.Notify()
}

// persist makes the batch durable before it is shown.
func (r *replica) persist(batch []committed) error {
	if r.stale || r.logSize > compactAt {
		if err := r.writeSnapshot(r.state); err != nil {
			r.stale = r.stale || len(batch) > 0
			return err
		}
	}
	if len(batch) == 0 {
		return nil
	}
	frame := appendFrame(nil, batch)
	if err := r.disk.Append(r.log, frame); err != nil {
		r.stale = true
		r.rewind()
		return fmt.Errorf("write ledger copy %s: %w", r.log.Name(), err)
	}
	r.logSize += int64(len(frame))
	return nil
}

// rewind takes back half a frame, so that the next one is not lost behind it.
// If that fails too the log stays as it is: stale makes the next write replace
// it altogether.
func (r *replica) rewind() {
	if r.log.Truncate(r.logSize) == nil {
		_, _ = r.log.Seek(r.logSize, io.SeekStart) // fails as Truncate would have
	}
}

// writeSnapshot writes s and empties the log. A power cut between the two
// leaves commands in the log that the snapshot has; replay skips them.
func (r *replica) writeSnapshot(s *state) error {
	payload := appendBytes(nil, r.site.ID)
	payload = binary.AppendUvarint(payload, r.site.Generation)
	payload = append(payload, s.encode()...)
	b := append([]byte(copyMagic), 0, 0, 0, 0)
	binary.BigEndian.PutUint32(b[len(copyMagic):], crc32.Checksum(payload, castagnoli))
	path := filepath.Join(r.dir, copySnapshotFile)
	if err := r.disk.WriteFile(path, append(b, payload...)); err != nil {
		return fmt.Errorf("write ledger copy: %w", err)
	}
	if err := r.log.Truncate(0); err != nil {
		return fmt.Errorf("empty ledger log %s: %w", r.log.Name(), err)
	}
	if _, err := r.log.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("empty ledger log %s: %w", r.log.Name(), err)
	}
	r.logSize, r.stale = 0, false
	return nil
}

func (r *replica) readSnapshot() error {
	r.state = newState()
	path := filepath.Join(r.dir, copySnapshotFile)
	b, err := readBounded(path, maxSnapshotSize+1024)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("read ledger copy: %w", err)
	}
	corrupt := func(reason string) error { return &CorruptError{File: path, Reason: reason} }
	if len(b) < len(copyMagic)+4 || string(b[:len(copyMagic)]) != copyMagic {
		return corrupt("it does not begin as a ledger copy")
	}
	sum, payload := binary.BigEndian.Uint32(b[len(copyMagic):]), b[len(copyMagic)+4:]
	if crc32.Checksum(payload, castagnoli) != sum {
		return corrupt("its checksum does not match")
	}
	head := &reader{rest: payload}
	site := Site{ID: string(head.bytes("site", maxSiteSize)), Generation: head.uint()}
	if head.err != nil {
		return corrupt(head.err.Error())
	}
	if site != r.site {
		return corrupt(fmt.Sprintf("it belongs to %v, not to %v", site, r.site))
	}
	s, err := decodeState(head.rest)
	if err != nil {
		return corrupt(err.Error())
	}
	r.state = s
	return nil
}

// replay applies what the log has beyond the snapshot.
func (r *replica) replay() error {
	b, err := io.ReadAll(io.LimitReader(r.log, maxCopyLog+1))
	if err != nil {
		return fmt.Errorf("read ledger log %s: %w", r.log.Name(), err)
	}
	good := 0
	for good < len(b) {
		batch, size, err := takeFrame(b[good:])
		if err != nil {
			if size > 0 && frameFollows(b[good+size:]) {
				return &CorruptError{File: r.log.Name(), Reason: fmt.Sprintf("at byte %d: %v", good, err)}
			}
			break // the write that a power cut interrupted: the last one
		}
		for _, c := range batch {
			if c.index <= r.state.index {
				continue
			}
			if c.prev != r.state.index {
				return &CorruptError{File: r.log.Name(), Reason: fmt.Sprintf("command %d follows %d, the copy is at %d", c.index, c.prev, r.state.index)}
			}
			r.state.apply(c.index, c.data)
			r.keep(c)
		}
		good += size
	}
	r.logSize = int64(good)
	if err := r.log.Truncate(r.logSize); err != nil {
		return fmt.Errorf("trim ledger log %s: %w", r.log.Name(), err)
	}
	if _, err := r.log.Seek(r.logSize, io.SeekStart); err != nil {
		return fmt.Errorf("trim ledger log %s: %w", r.log.Name(), err)
	}
	return nil
}

const (
	frameHead    = 8 // length and checksum, 4 bytes each
	maxFrameSize = recentBytes + 64*(MaxTxnSize+32)
	maxCopyLog   = compactAt + maxFrameSize + frameHead
)

// appendFrame writes a batch as one frame with one checksum: a batch is shown
// as a whole, so it must survive as a whole.
func appendFrame(b []byte, batch []committed) []byte {
	start := len(b)
	b = append(b, make([]byte, frameHead)...)
	for _, c := range batch {
		b = appendCommitted(b, c)
	}
	payload := b[start+frameHead:]
	binary.BigEndian.PutUint32(b[start:], uint32(len(payload)))
	binary.BigEndian.PutUint32(b[start+4:], crc32.Checksum(payload, castagnoli))
	return b
}

// takeFrame returns the first frame and its size. On an error size is that of
// the frame as its head claims, 0 if the input is shorter.
func takeFrame(b []byte) (batch []committed, size int, err error) {
	if len(b) < frameHead {
		return nil, 0, errShort
	}
	n := binary.BigEndian.Uint32(b)
	if n == 0 || n > maxFrameSize || int(n) > len(b)-frameHead {
		return nil, 0, errShort
	}
	size = frameHead + int(n)
	payload := b[frameHead:size]
	if crc32.Checksum(payload, castagnoli) != binary.BigEndian.Uint32(b[4:]) {
		return nil, size, errors.New("a checksum does not match")
	}
	r := &reader{rest: payload}
	for len(r.rest) > 0 {
		batch = append(batch, readCommitted(r))
	}
	if r.err != nil {
		return nil, size, r.err
	}
	return batch, size, nil
}

// frameFollows says whether b begins with a whole frame: then the bad one
// before it was not the last write, and its loss is damage.
func frameFollows(b []byte) bool {
	_, _, err := takeFrame(b)
	return err == nil
}

func appendCommitted(b []byte, c committed) []byte {
	b = binary.AppendUvarint(b, c.prev)
	b = binary.AppendUvarint(b, c.index)
	return appendBytes(b, c.data)
}

func readCommitted(r *reader) committed {
	c := committed{prev: r.uint(), index: r.uint()}
	c.data = append([]byte(nil), r.bytes("command", MaxTxnSize)...)
	if r.err == nil && c.prev >= c.index {
		r.fail(fmt.Errorf("command %d follows %d", c.index, c.prev))
	}
	return c
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		return nil, &CorruptError{File: path, Reason: fmt.Sprintf("more than %d bytes", limit)}
	}
	return b, err
}
