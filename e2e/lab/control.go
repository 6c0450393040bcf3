package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// controlSocket, in the node's directory, is where PID 1 takes requests: one JSON document each way per connection.
const controlSocket = "init.sock"

type operation string

const (
	opStatus      operation = "status"
	opStart       operation = "start"        // the agent, unless it runs
	opSignalAgent operation = "signal-agent" // the agent alone
	opSignalAll   operation = "signal-all"   // every process but PID 1
)

type request struct {
	Op     operation `json:"op"`
	Signal int       `json:"signal,omitempty"`
}

type reply struct {
	Error   string    `json:"error,omitempty"`
	Agent   int       `json:"agent,omitempty"` // PID in the node; 0: it does not run
	Started time.Time `json:"started"`
	Ended   string    `json:"ended,omitempty"` // how the last agent ended
}

const (
	controlTimeout = 10 * time.Second
	controlLimit   = 4096 // bytes of one document
)

// answerAll serves the control socket until it is closed, and waits for the answers under way.
func (s *supervisor) answerAll(control net.Listener) {
	var answers sync.WaitGroup
	defer answers.Wait()
	for {
		conn, err := control.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "control socket: %v\n", err)
			continue
		}
		answers.Go(func() {
			defer conn.Close()
			if err := s.answer(conn); err != nil {
				fmt.Fprintf(os.Stderr, "control socket: %v\n", err)
			}
		})
	}
}

func (s *supervisor) answer(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(controlTimeout)); err != nil {
		return err
	}
	var r request
	if err := json.NewDecoder(io.LimitReader(conn, controlLimit)).Decode(&r); err != nil {
		return err
	}
	answer, err := s.handle(r)
	if err != nil {
		answer.Error = err.Error()
	}
	return json.NewEncoder(conn).Encode(answer)
}

// ask sends one request to the PID 1 of n.
func (l *Lab) ask(ctx context.Context, n *node, r request) (reply, error) {
	if !n.Init.alive() {
		return reply{}, fmt.Errorf("%s: %w", n.Name, ErrNodeDown)
	}
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	dir, err := os.Open(l.nodeDir(n.Name))
	if err != nil {
		return reply{}, fmt.Errorf("%s: %w", n.Name, err)
	}
	defer dir.Close()
	// Through the descriptor, because a socket's path may be no longer than 107 bytes.
	path := filepath.Join("/proc/self/fd", fmt.Sprint(dir.Fd()), controlSocket)
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return reply{}, fmt.Errorf("%s: talk to its init: %w", n.Name, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var answer reply
	err = json.NewEncoder(conn).Encode(r)
	if err == nil {
		err = json.NewDecoder(io.LimitReader(conn, controlLimit)).Decode(&answer)
	}
	if err != nil {
		return reply{}, fmt.Errorf("%s: talk to its init: %w", n.Name, err)
	}
	if answer.Error != "" {
		return reply{}, fmt.Errorf("%s: %s", n.Name, answer.Error)
	}
	return answer, nil
}
