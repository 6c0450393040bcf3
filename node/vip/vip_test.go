package vip

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var mac = net.HardwareAddr{2, 0, 0, 0, 0, 1}

func TestGratuitousARPNamesTheAddressTwice(t *testing.T) {
	require.Equal(t, []byte{
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x08, 0x06,
		0, 1, 8, 0, 6, 4, 0, 1,
		2, 0, 0, 0, 0, 1, 192, 168, 1, 100,
		0, 0, 0, 0, 0, 0, 192, 168, 1, 100,
	}, arpFrame(mac, netip.MustParseAddr("192.168.1.100")))
}

func TestAnUnsolicitedAdvertisementChecksOut(t *testing.T) {
	address := netip.MustParseAddr("2001:db8::100")
	f := advertisementFrame(mac, address)
	require.Len(t, f, 14+40+32)
	ip, icmp := f[14:54], f[54:]
	require.Equal(t, byte(255), ip[7])
	require.Equal(t, address.AsSlice(), icmp[8:24])
	// The sum over everything, its own checksum included, is all ones.
	pseudo := append(append([]byte{}, ip[8:40]...), 0, 0, 0, 32, 0, 0, 0, 58)
	require.Zero(t, checksum(append(pseudo, icmp...)))
}

// inNamespace runs fn with a link of its own, lan0 with 192.168.1.5/24 and
// 2001:db8::5/64. The thread is thrown away.
func inNamespace(t *testing.T, fn func(lan netlink.Link) error) {
	t.Helper()
	require.Zero(t, os.Getuid(), "network namespaces need root")
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "lan0"}, PeerName: "lan1"}
			if err := netlink.LinkAdd(pair); err != nil {
				return err
			}
			for _, name := range []string{"lan1", "lan0"} {
				l, err := netlink.LinkByName(name)
				if err == nil {
					err = netlink.LinkSetUp(l)
				}
				if err != nil {
					return err
				}
			}
			l, err := netlink.LinkByName("lan0")
			if err != nil {
				return err
			}
			for _, text := range []string{"192.168.1.5/24", "2001:db8::5/64"} {
				a, err := netlink.ParseAddr(text)
				if err == nil {
					err = netlink.AddrAdd(l, a)
				}
				if err != nil {
					return err
				}
			}
			return fn(l)
		}()
	}()
	require.NoError(t, <-done)
}

func has(l netlink.Link, address netip.Addr) (bool, error) {
	all, err := netlink.AddrList(l, family(address))
	for _, a := range all {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.Unmap() == address {
			return true, err
		}
	}
	return false, err
}

func TestTheKernelDropsAnAddressThatNobodyRenews(t *testing.T) {
	for _, text := range []string{"192.168.1.100", "2001:db8::100"} {
		address := netip.MustParseAddr(text)
		inNamespace(t, func(lan netlink.Link) error {
			name, err := Link("", address)
			require.NoError(t, err)
			require.Equal(t, "lan0", name)
			require.NoError(t, Hold(name, address, 1))
			require.NoError(t, Hold(name, address, 2), "renewed")
			on, err := has(lan, address)
			require.NoError(t, err)
			require.True(t, on)
			require.NoError(t, Announce(name, address))
			deadline := time.Now().Add(time.Minute)
			for on && time.Now().Before(deadline) {
				time.Sleep(50 * time.Millisecond) // this thread is in another namespace than those of require.Eventually
				on, err = has(lan, address)
				require.NoError(t, err)
			}
			require.False(t, on, "the kernel keeps %s", address)
			return nil
		})
	}
}

func TestDropLeavesAloneWhatWasGivenForGood(t *testing.T) {
	held, given := netip.MustParseAddr("192.168.1.100"), netip.MustParseAddr("192.168.1.5")
	inNamespace(t, func(lan netlink.Link) error {
		require.NoError(t, Hold("lan0", held, 100))
		require.NoError(t, Drop(held))
		require.NoError(t, Drop(held), "again")
		require.NoError(t, Drop(given))
		for address, want := range map[netip.Addr]bool{held: false, given: true} {
			on, err := has(lan, address)
			require.NoError(t, err)
			require.Equal(t, want, on, "%s", address)
		}
		return nil
	})
}

func TestAnAddressOfNoNetworkHereHasNoLink(t *testing.T) {
	inNamespace(t, func(netlink.Link) error {
		_, err := Link("", netip.MustParseAddr("192.168.2.100"))
		require.ErrorIs(t, err, ErrNoLink)
		_, err = Link("lan9", netip.MustParseAddr("192.168.1.100"))
		require.ErrorIs(t, err, ErrNoLink)
		name, err := Link("lan1", netip.MustParseAddr("192.168.2.100"))
		require.NoError(t, err)
		require.Equal(t, "lan1", name)
		require.Error(t, Hold("lan9", netip.MustParseAddr("192.168.1.100"), 5))
		require.Error(t, Hold("lan0", netip.MustParseAddr("192.168.1.100"), 0))
		return nil
	})
}
