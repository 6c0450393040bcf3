package vm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"regexp"
	"sync"
	"time"
)

// Console is what a machine has printed on its serial line, over all of its boots. Terminal control is taken out.
type Console struct {
	mu   sync.Mutex
	log  io.Writer
	text []byte
	// waited is how far WaitFor has come.
	waited int
	lines  []Line
	// partial is the line that has no end yet, since its first byte.
	partial      []byte
	partialSince time.Duration
	powerOn      time.Time
	changed      chan struct{}
	closed       bool
	escape       escapeState
}

// Line is a line of the console and when it began, counted from the last power-on.
type Line struct {
	At   time.Duration
	Text string
}

type escapeState int

const (
	plain     escapeState = iota
	escaped               // after ESC
	sequenced             // in a control sequence, after ESC [
)

func newConsole(log io.Writer) *Console {
	return &Console{log: log, changed: make(chan struct{}), powerOn: time.Now()}
}

// start notes a power-on: the lines' time is counted from here.
func (c *Console) start(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLine()
	c.powerOn = time.Now()
	c.escape = plain
	c.put([]byte("--- " + what + " ---\n"))
}

// Write takes what the machine prints.
func (c *Console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(c.clean(p))
	return len(p), nil
}

// put takes text without terminal control.
func (c *Console) put(p []byte) {
	c.text = append(c.text, p...)
	for len(p) > 0 {
		if len(c.partial) == 0 {
			c.partialSince = time.Since(c.powerOn)
		}
		line, rest, ended := bytes.Cut(p, []byte("\n"))
		c.partial = append(c.partial, line...)
		p = rest
		if ended {
			c.endLine()
		}
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Console) endLine() {
	if len(bytes.TrimSpace(c.partial)) > 0 {
		l := Line{At: c.partialSince, Text: string(c.partial)}
		c.lines = append(c.lines, l)
		// The log is for people; a full disk fails the test elsewhere.
		_, _ = fmt.Fprintf(c.log, "%7.2f %s\n", l.At.Seconds(), l.Text)
	}
	c.partial = c.partial[:0]
}

// clean takes out carriage returns and escape sequences, which may be cut anywhere.
func (c *Console) clean(p []byte) []byte {
	out := make([]byte, 0, len(p))
	for _, b := range p {
		switch {
		case c.escape == escaped && b == '[':
			c.escape = sequenced
		case c.escape == escaped:
			c.escape = plain
		case c.escape == sequenced:
			if b >= 0x40 && b <= 0x7e {
				c.escape = plain
			}
		case b == 0x1b:
			c.escape = escaped
		case b == '\n' || b == '\t' || b >= 0x20:
			out = append(out, b)
		}
	}
	return out
}

// close says that no more will come.
func (c *Console) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.endLine()
		c.closed = true
		close(c.changed)
		c.changed = make(chan struct{})
	}
}

// WaitFor returns the next match of a pattern since the last one that was waited for; the text may be printed already.
func (c *Console) WaitFor(ctx context.Context, pattern *regexp.Regexp) (string, error) {
	for {
		c.mu.Lock()
		if at := pattern.FindIndex(c.text[c.waited:]); at != nil {
			match := string(c.text[c.waited+at[0] : c.waited+at[1]])
			c.waited += at[1]
			c.mu.Unlock()
			return match, nil
		}
		changed, closed, tail := c.changed, c.closed, lastLines(c.text, 12)
		c.mu.Unlock()
		if closed {
			return "", fmt.Errorf("wait for %q on the console: %w; it ends\n%s", pattern, ErrOff, tail)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", fmt.Errorf("wait for %q on the console: %w; it ends\n%s", pattern, ctx.Err(), tail)
		}
	}
}

// Skip lets WaitFor see only what is printed from now on.
func (c *Console) Skip() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waited = len(c.text)
}

// String returns everything that was printed.
func (c *Console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.text)
}

// Lines returns every finished line that is not blank.
func (c *Console) Lines() []Line {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Line(nil), c.lines...)
}

// lastLines returns the last n lines of text.
func lastLines(text []byte, n int) []byte {
	at := len(text)
	for range n + 1 {
		at = bytes.LastIndexByte(text[:max(at, 0)], '\n')
		if at < 0 {
			return text
		}
	}
	return text[at+1:]
}
