package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
)

// monitor speaks QMP with one QEMU: how it ended, and snapshots.
type monitor struct {
	conn    net.Conn
	answers chan answer
	// done is closed when QEMU has hung up; reason is valid from then on.
	done   chan struct{}
	reason string
	// asking is held during a question: answers come in order.
	asking sync.Mutex
}

// answer is what QMP sends: a greeting, an answer, or an event.
type answer struct {
	Return json.RawMessage
	Error  *struct{ Desc string }
	Event  string
	Data   struct{ Reason string }
}

// newMonitor takes a connection that QEMU has just made, and ends with it.
func newMonitor(conn net.Conn) *monitor {
	m := &monitor{conn: conn, answers: make(chan answer, 1), done: make(chan struct{})}
	go m.read()
	return m
}

func (m *monitor) read() {
	defer close(m.done)
	defer m.conn.Close()
	from := json.NewDecoder(bufio.NewReader(m.conn))
	for {
		var a answer
		if err := from.Decode(&a); err != nil {
			return // QEMU has ended
		}
		switch {
		case a.Event == "SHUTDOWN":
			m.reason = a.Data.Reason
		case a.Return != nil || a.Error != nil:
			select {
			case m.answers <- a:
			default: // the one who asked has gone
			}
		}
	}
}

// ask sends a command and returns its answer.
func (m *monitor) ask(ctx context.Context, command string, arguments map[string]any) (json.RawMessage, error) {
	m.asking.Lock()
	defer m.asking.Unlock()
	select {
	case <-m.answers: // of one who did not wait for it
	default:
	}
	question := map[string]any{"execute": command}
	if arguments != nil {
		question["arguments"] = arguments
	}
	raw, err := json.Marshal(question)
	if err == nil {
		if _, err = m.conn.Write(append(raw, '\n')); err != nil {
			err = fmt.Errorf("%w (%w)", ErrOff, err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("ask QEMU to %s: %w", command, err)
	}
	a, err := receive(ctx, m.answers, m.done)
	if err != nil {
		return nil, fmt.Errorf("ask QEMU to %s: %w", command, err)
	}
	if a.Error != nil {
		return nil, fmt.Errorf("ask QEMU to %s: %s", command, a.Error.Desc)
	}
	return a.Return, nil
}

// receive waits for an answer: also one that came before QEMU hung up, else ErrOff from then on.
func receive[A any](ctx context.Context, answers <-chan A, done <-chan struct{}) (A, error) {
	var none A
	select {
	case a := <-answers:
		return a, nil
	case <-done:
	case <-ctx.Done():
		return none, ctx.Err()
	}
	select {
	case a := <-answers:
		return a, nil
	default:
		return none, ErrOff
	}
}

// human runs a command of the monitor that people use. What it prints is an error.
func (m *monitor) human(ctx context.Context, line string) error {
	raw, err := m.ask(ctx, "human-monitor-command", map[string]any{"command-line": line})
	if err != nil {
		return err
	}
	var printed string
	if err := json.Unmarshal(raw, &printed); err != nil {
		return fmt.Errorf("%s: %w", line, err)
	}
	if printed != "" {
		return errors.New(line + ": " + printed)
	}
	return nil
}
