package vm

import (
	"bytes"
	"context"
	"regexp"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestConsoleTakesTerminalControlOut(t *testing.T) {
	c := newConsole(&bytes.Buffer{})
	for _, piece := range []string{"\x1b[2J\x1b", "[01;1HGNU GRUB\r\n\x1b[0", "m\x1bcnext\x07\r\n"} {
		n, err := c.Write([]byte(piece))
		require.NoError(t, err)
		require.Equal(t, len(piece), n)
	}
	require.Equal(t, "GNU GRUB\nnext\n", c.String())
}

func TestConsoleStampsLinesSincePowerOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		c := newConsole(&log)
		c.start("power on")
		time.Sleep(1500 * time.Millisecond)
		_, _ = c.Write([]byte("a li"))
		time.Sleep(time.Second)
		_, _ = c.Write([]byte("ne\n\nunfinished"))
		c.start("reset")
		_, _ = c.Write([]byte("again\n"))
		require.Equal(t, []Line{
			{0, "--- power on ---"},
			{1500 * time.Millisecond, "a line"},
			{2500 * time.Millisecond, "unfinished"},
			{0, "--- reset ---"},
			{0, "again"},
		}, c.Lines())
		require.Equal(t, "   0.00 --- power on ---\n   1.50 a line\n   2.50 unfinished\n   0.00 --- reset ---\n   0.00 again\n", log.String())
	})
}

func TestWaitForGoesOnBehindTheLastMatch(t *testing.T) {
	ctx := t.Context()
	c := newConsole(&bytes.Buffer{})
	_, _ = c.Write([]byte("boot 1\nboot 2\n"))
	boot := regexp.MustCompile(`boot \d`)
	for _, want := range []string{"boot 1", "boot 2"} {
		got, err := c.WaitFor(ctx, boot)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	go func() { _, _ = c.Write([]byte("boot 3")) }()
	got, err := c.WaitFor(ctx, boot)
	require.NoError(t, err)
	require.Equal(t, "boot 3", got)

	_, _ = c.Write([]byte("boot 4"))
	c.Skip()
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err = c.WaitFor(ended, boot)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "boot 4", "the error shows how the console ends")

	c.close()
	_, err = c.WaitFor(ctx, boot)
	require.ErrorIs(t, err, ErrOff)
}
