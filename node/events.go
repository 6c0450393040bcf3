package node

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/muster-edge/muster/p2p"
)

// maxEvents is how many events a node keeps.
const maxEvents = 500

// Event is something that happened on this node, for `muster events`.
type Event struct {
	Time   time.Time `json:"time"`
	Kind   string    `json:"kind"`
	What   string    `json:"what"`
	Reason string    `json:"reason,omitempty"`
}

// eventLog keeps the last events, appended to a file as they come and written
// anew when it has grown to twice what is kept. An event that a power cut tore
// is left out at the next start.
type eventLog struct {
	mu    sync.Mutex
	path  string
	file  *os.File
	lines int
	kept  []Event
}

// openEvents reads what was kept. A disk that takes nothing more is an error
// beside a log that is kept in memory: it must not keep a node from coming up.
func openEvents(path string) (*eventLog, error) {
	l := &eventLog{path: path}
	f, err := os.Open(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open events: %w", err)
	}
	if err == nil {
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			var e Event
			if json.Unmarshal(lines.Bytes(), &e) == nil {
				l.kept = append(l.kept, e)
			}
		}
		// A file that cannot be read to its end has lost its newest events,
		// which is no reason not to start.
		_ = f.Close()
	}
	return l, l.rewrite()
}

// add records an event. A full disk costs the event, not the node.
func (l *eventLog) add(kind, what, reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := Event{Time: time.Now().UTC(), Kind: kind, What: what, Reason: reason}
	l.kept = append(l.kept, e)
	if len(l.kept) > 2*maxEvents {
		l.forget() // also when nothing can be written
	}
	if l.lines >= 2*maxEvents && l.rewrite() == nil {
		return
	}
	if text, err := json.Marshal(e); err == nil && l.file != nil {
		if _, err := l.file.Write(append(text, '\n')); err == nil {
			l.lines++
		}
	}
}

func (l *eventLog) rewrite() error {
	l.forget()
	var text []byte
	for _, e := range l.kept {
		line, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("write events: %w", err)
		}
		text = append(append(text, line...), '\n')
	}
	if err := p2p.WriteFile(l.path, text, 0o600); err != nil {
		return fmt.Errorf("write events: %w", err)
	}
	f, err := os.OpenFile(l.path, os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write events: %w", err)
	}
	if l.file != nil {
		_ = l.file.Close() // its content is in the new file
	}
	l.file, l.lines = f, len(l.kept)
	return nil
}

// forget drops what is too old to be kept.
func (l *eventLog) forget() {
	if len(l.kept) > maxEvents {
		l.kept = append([]Event(nil), l.kept[len(l.kept)-maxEvents:]...)
	}
}

func (l *eventLog) list() []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Event(nil), l.kept...)
}

func (l *eventLog) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}
