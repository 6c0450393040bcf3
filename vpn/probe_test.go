package vpn

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

func probePair(t testing.TB) (a, b probeKeys) {
	t.Helper()
	ka, err := wgtypes.GeneratePrivateKey()
	require.NoError(t, err)
	kb, err := wgtypes.GeneratePrivateKey()
	require.NoError(t, err)
	a, err = newProbeKeys(ka, kb.PublicKey())
	require.NoError(t, err)
	b, err = newProbeKeys(kb, ka.PublicKey())
	require.NoError(t, err)
	return a, b
}

func TestOnlyTheOtherEndOfAPairCanMakeAProbe(t *testing.T) {
	a, b := probePair(t)
	c, _ := probePair(t)
	for _, p := range []probe{
		{kind: ping, tx: 7},
		{kind: pong, tx: 8, observed: netip.MustParseAddrPort("198.51.100.7:4000")},
		{kind: pong, tx: 9, observed: netip.MustParseAddrPort("[2001:db8::1]:5")},
	} {
		raw := a.encode(p)
		got, err := decodeProbe(raw)
		require.NoError(t, err)
		require.Equal(t, b.theirs, got.id)
		got.id = probeID{}
		require.Equal(t, p, got)
		require.True(t, b.verify(raw))
		require.False(t, a.verify(raw), "its own, sent back")
		require.False(t, c.verify(raw))
		for i := range raw {
			bad := append([]byte(nil), raw...)
			bad[i] ^= 1
			if _, err := decodeProbe(bad); err == nil {
				require.False(t, b.verify(bad), "byte %d", i)
			}
		}
	}
	require.NotEqual(t, a.ours, a.theirs)
}

func TestAProbeIsNoMessageOfWireGuards(t *testing.T) {
	a, _ := probePair(t)
	raw := a.encode(probe{kind: ping})
	require.Greater(t, raw[0], byte(4))
}

func FuzzDecodeProbe(f *testing.F) {
	a, b := probePair(f)
	f.Add(a.encode(probe{kind: ping, tx: 1}))
	f.Add(a.encode(probe{kind: pong, tx: 1, observed: netip.MustParseAddrPort("198.51.100.7:4000")}))
	f.Add([]byte("mstr"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := decodeProbe(raw)
		if err != nil {
			require.False(t, len(raw) == probeSize && b.verify(raw) && raw[4] == probeVersion && raw[5] >= 1 && raw[5] <= 2 && raw[6] == 0 && raw[7] == 0 && [4]byte(raw[:4]) == probeMagic)
			return
		}
		require.Contains(t, []probeKind{ping, pong}, p.kind)
		b.verify(raw)
	})
}

// Two sockets of one machine, with WireGuard's port taken by somebody else, as it is by the kernel's device.
func TestProbesPassBesideThePortsHolder(t *testing.T) {
	n := newNamespace(t)
	type heard struct {
		from netip.AddrPort
		raw  []byte
	}
	a, _ := probePair(t)
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run(host, func(t *testing.T) {
			got := make(chan heard, 16)
			var s, other *probeSocket
			n.do(t, func() (err error) {
				s, err = openProbeSocket(5001, func(from netip.AddrPort, raw []byte) { got <- heard{from, append([]byte(nil), raw...)} })
				if err != nil {
					return err
				}
				other, err = openProbeSocket(5002, func(netip.AddrPort, []byte) {})
				return err
			})
			t.Cleanup(func() { require.NoError(t, s.close()) })
			t.Cleanup(func() { require.NoError(t, other.close()) })
			to := netip.AddrPortFrom(netip.MustParseAddr(host), 5001)
			raw := a.encode(probe{kind: ping, tx: 42})
			n.do(t, func() error {
				other.send(netip.AddrPortFrom(to.Addr(), 5003), raw) // not ours
				other.send(to, []byte("something else of this size or another"))
				other.send(to, raw)
				return nil
			})
			select {
			case h := <-got:
				require.Equal(t, raw, h.raw)
				require.Equal(t, netip.AddrPortFrom(to.Addr(), 5002), h.from)
			case <-time.After(10 * time.Second):
				require.Fail(t, "no probe")
			}
			require.Empty(t, got)
		})
	}
}
