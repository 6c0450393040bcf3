package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// steered is a meter whose clock the test moves.
func steered(width int) (*meter, *bytes.Buffer, func(time.Duration)) {
	var out bytes.Buffer
	now := time.Unix(1000, 0)
	return newMeter(&out, func() int { return width }, func() time.Time { return now }), &out, func(d time.Duration) { now = now.Add(d) }
}

func TestInAPipeProgressIsALineAStepAndEveryFewSeconds(t *testing.T) {
	m, out, pass := steered(0)
	m.report("look at dir:x", 0, 0)
	pass(time.Second)
	for i := range 13 {
		m.report("pull", int64(i)<<20, 12<<20)
		pass(time.Second)
	}
	m.report("read back", 0, 12<<20)
	pass(6 * time.Second)
	m.tick() // nothing was reported, and it is alive
	m.close()
	require.Equal(t, `    0s  look at dir:x
    1s  pull
    6s  pull  5.0 MiB of 12.0 MiB, 41%, 1.0 MiB/s, 7s left
   11s  pull  10.0 MiB of 12.0 MiB, 83%, 1.0 MiB/s, 2s left
   14s  pull  12.0 MiB of 12.0 MiB, 100%, 945.2 KiB/s
   14s  read back
   20s  read back
`, out.String())
}

func TestOnATerminalAStepIsOneLineThatIsRewritten(t *testing.T) {
	m, out, pass := steered(50)
	m.report("unpack", 0, 4<<30)
	pass(10 * time.Millisecond)
	m.report("unpack", 1<<20, 4<<30) // too soon to be seen
	pass(2 * time.Second)
	m.report("unpack", 1<<30, 4<<30)
	m.report("check", 0, 0)
	m.close()
	require.Equal(t, 2, strings.Count(out.String(), "\n"), "%q", out)
	for _, line := range strings.FieldsFunc(out.String(), func(r rune) bool { return r == '\n' || r == '\r' }) {
		require.Less(t, len([]rune(strings.TrimPrefix(line, "\x1b[K"))), 50, "a line that wraps cannot be rewritten")
	}
	require.Contains(t, out.String(), "\r\x1b[K    2s  unpack  1.00 GiB of 4.00 GiB, 25%, 509.5")
}

func TestWhatAnEarlierRunBroughtIsNoSpeed(t *testing.T) {
	m, out, pass := steered(0)
	m.report("pull", 100<<20, 200<<20)
	pass(10 * time.Second)
	m.report("pull", 110<<20, 200<<20)
	m.close()
	require.Contains(t, out.String(), "110.0 MiB of 200.0 MiB, 55%, 1.0 MiB/s, 1m30s left")
}

func TestAnInterruptIsAcknowledgedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var out bytes.Buffer
		m := startMeter(ctx, &out)
		m.report("unpack", 0, 0)
		time.Sleep(7 * time.Second) // virtual
		cancel()
		synctest.Wait()
		m.close()
		m.close()
		require.Equal(t, "    0s  unpack\n    5s  unpack\ninterrupted; taking back what was begun…\n", out.String())
	})
}

func TestSpansAndBytesAreForPeople(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m01s", 2*time.Hour + 5*time.Minute: "2h05m"} {
		require.Equal(t, want, span(d))
	}
	for n, want := range map[int64]string{0: "0.0 MiB", 1536: "1.5 KiB", 3 << 20: "3.0 MiB", 12 << 30: "12.00 GiB"} {
		require.Equal(t, want, bytesText(n))
	}
}
