package ledger

import (
	"bufio"
	"bytes"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestDeltaStreamIsTransparent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var wire, want bytes.Buffer
		w := &deltaWriter{w: &wire}
		base := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "base")
		for range rapid.IntRange(1, 20).Draw(t, "writes") {
			next := bytes.Clone(base)
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				next = rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "other")
			case 1:
				next = bytes.Repeat([]byte{7}, deltaMax+rapid.IntRange(-2, 2).Draw(t, "around"))
			case 2:
				if len(next) > 0 {
					next[rapid.IntRange(0, len(next)-1).Draw(t, "at")]++
				}
			}
			n, err := w.Write(next)
			require.NoError(t, err)
			require.Equal(t, len(next), n)
			want.Write(next)
			base = next[:min(len(next), 300)]
		}
		got, err := io.ReadAll(&deltaReader{r: bufio.NewReader(&wire)})
		require.NoError(t, err)
		require.True(t, bytes.Equal(want.Bytes(), got))
	})
}

func TestHeartbeatLikeTheLastOneCostsThreeOrFourBytes(t *testing.T) {
	var wire bytes.Buffer
	w := &deltaWriter{w: &wire}
	heartbeat := bytes.Repeat([]byte("name"), 90)
	for i := range 3 {
		wire.Reset()
		_, err := w.Write(heartbeat)
		require.NoError(t, err)
		if i > 0 {
			require.LessOrEqual(t, wire.Len(), 4)
		}
	}
}

func FuzzDeltaReader(f *testing.F) {
	var wire bytes.Buffer
	w := &deltaWriter{w: &wire}
	for _, s := range []string{"hello", "hello", "help"} {
		_, _ = w.Write([]byte(s))
	}
	f.Add(wire.Bytes())
	f.Add([]byte{1, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := io.ReadAll(io.LimitReader(&deltaReader{r: bufio.NewReader(bytes.NewReader(b))}, 1<<22))
		if err == nil && len(out) > (len(b)+1)*deltaMax {
			t.Fatalf("%d bytes of %d", len(out), len(b))
		}
	})
}
