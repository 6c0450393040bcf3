package p2p

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestCodedPacketsArriveAsTheyWereSent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "seed")
		packets := rapid.SliceOf(rapid.Custom(func(t *rapid.T) []byte {
			if rapid.Bool().Draw(t, "large") {
				return bytes.Repeat([]byte{7}, rapid.IntRange(0, 3*codedPacket).Draw(t, "size"))
			}
			p := bytes.Clone(seed)
			for range rapid.IntRange(0, 5).Draw(t, "changes") {
				if len(p) > 0 {
					p[rapid.IntRange(0, len(p)-1).Draw(t, "at")]++
				}
			}
			return p[:rapid.IntRange(0, len(p)).Draw(t, "length")]
		})).Draw(t, "packets")
		var wire []byte
		var out, in packetHistory
		for _, p := range packets {
			wire = out.encode(wire, p)
		}
		r := bufio.NewReader(bytes.NewReader(wire))
		for _, want := range packets {
			got, err := in.decode(r, 4*codedPacket)
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, got))
		}
		_, err := in.decode(r, 4*codedPacket)
		require.ErrorIs(t, err, io.EOF)
	})
}

func TestAPingLikeTheOneBeforeIsAFewBytes(t *testing.T) {
	names := strings.Repeat("12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X", 3)
	ping := func(sum, count string) []byte { return []byte("\x0c" + sum + names[:70] + count + names[70:]) }
	var h packetHistory
	first := h.encode(nil, ping("abcd", "0001"))
	require.Greater(t, len(first), len(names))
	h.encode(nil, []byte("an answer to somebody else's ping"))
	require.LessOrEqual(t, len(h.encode(nil, ping("efgh", "0002"))), 16)
}

func TestWrongCodingIsRefused(t *testing.T) {
	for name, wire := range map[string]string{
		"too long":               "ffff7f",
		"too far back":           "0105",
		"same as nothing":        "0400" + "0400",
		"beyond the end":         "0400" + "0005" + "0000000000",
		"nothing at all":         "0400" + "0000",
		"cut in the size":        "80",
		"cut in the middle":      "0400" + "0004" + "00",
		"base that was not sent": "0401" + "0400",
		"overflow":               "0400" + "ffffffffffffffffff01" + "01",
	} {
		t.Run(name, func(t *testing.T) {
			b, err := hex.DecodeString(wire)
			require.NoError(t, err)
			_, err = new(packetHistory).decode(bufio.NewReader(bytes.NewReader(b)), 16<<10)
			require.Error(t, err)
			require.NotErrorIs(t, err, io.EOF)
		})
	}
}

func FuzzPacketCoding(f *testing.F) {
	var h packetHistory
	f.Add(h.encode(h.encode(nil, []byte("a packet of gossip")), []byte("a packet 0f gossip")))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := bufio.NewReader(bytes.NewReader(raw))
		var in, out, again packetHistory
		for {
			packet, err := in.decode(r, 2*codedPacket)
			if err != nil {
				return
			}
			got, err := again.decode(bufio.NewReader(bytes.NewReader(out.encode(nil, packet))), 2*codedPacket)
			require.NoError(t, err)
			require.True(t, bytes.Equal(packet, got))
		}
	})
}
