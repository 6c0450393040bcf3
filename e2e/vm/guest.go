package vm

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// agentScript answers on the virtio port. It knows nothing but a shell, coreutils and sysfs, because it also runs in images that
// are broken on purpose.
//
//go:embed agent.sh
var agentScript string

// guest runs commands through the agent in one boot of a machine.
type guest struct {
	conn net.Conn
	// turn is taken by who runs a command: the agent takes one at a time.
	turn    chan struct{}
	next    int
	answers chan result
	// done is closed when QEMU has hung up.
	done chan struct{}
}

// result is an answer of the agent: "ID CODE BASE64\n".
type result struct {
	id, code int
	output   []byte
}

// newGuest takes a connection that QEMU has just made. It ends when QEMU hangs up.
func newGuest(conn net.Conn) *guest {
	// An answer that nobody waits for any more lies in the channel until the next command.
	g := &guest{conn: conn, turn: make(chan struct{}, 1), answers: make(chan result, 1), done: make(chan struct{})}
	go g.read()
	return g
}

func (g *guest) read() {
	defer close(g.done)
	defer g.conn.Close()
	from := bufio.NewReader(g.conn)
	for {
		line, err := from.ReadString('\n')
		if err != nil {
			return
		}
		r, err := parseResult(line)
		if err != nil {
			continue // the end of what an agent that was killed had begun
		}
		select {
		case g.answers <- r:
		case <-g.answers: // two that nobody waited for: the newer stays
			g.answers <- r
		}
	}
}

// run waits for its turn, for the agent, and for the script.
func (g *guest) run(ctx context.Context, script string) (string, error) {
	failed := func(err error) error { return fmt.Errorf("run %q in the guest: %w", script, err) }
	select {
	case g.turn <- struct{}{}:
		defer func() { <-g.turn }()
	case <-ctx.Done():
		return "", failed(ctx.Err())
	}
	g.next++
	// Until the agent has opened the port QEMU keeps what is sent.
	if _, err := g.conn.Write(request(g.next, script)); err != nil {
		return "", failed(fmt.Errorf("%w (%w)", ErrOff, err))
	}
	for {
		r, err := receive(ctx, g.answers, g.done)
		if err != nil {
			return "", failed(err)
		}
		if r.id != g.next {
			continue
		}
		if r.code != 0 {
			return string(r.output), &ExitError{Script: script, Code: r.code, Output: string(r.output)}
		}
		return string(r.output), nil
	}
}

func parseResult(line string) (result, error) {
	fields := strings.Fields(line)
	if len(fields) != 2 && len(fields) != 3 {
		return result{}, errors.New("not an answer of the agent")
	}
	var r result
	var err error
	if r.id, err = strconv.Atoi(fields[0]); err == nil {
		r.code, err = strconv.Atoi(fields[1])
	}
	if err == nil && len(fields) == 3 {
		r.output, err = base64.StdEncoding.DecodeString(fields[2])
	}
	if err != nil {
		return result{}, fmt.Errorf("answer of the agent: %w", err)
	}
	return r, nil
}

func request(id int, script string) []byte {
	return fmt.Appendf(nil, "%d %s\n", id, base64.StdEncoding.EncodeToString([]byte(script)))
}
