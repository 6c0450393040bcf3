package scenario

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/vm"
)

// layout is what every boot must look like, whatever the firmware.
func requireLayout(t *testing.T, m *machine) {
	t.Helper()
	requireLayoutOf(t, m, "v1")
}

func requireLayoutOf(t *testing.T, m *machine, version string) {
	t.Helper()
	_, err := m.try("touch /usr/lib/not-writable")
	require.ErrorContains(t, err, "Read-only file system")
	require.Regexp(t, `^ro,`, m.sh("findmnt -no OPTIONS /"))
	require.Equal(t, "overlay", m.sh("findmnt -no FSTYPE /etc"))
	require.Equal(t, "COS_PERSISTENT", m.sh("findmnt -no LABEL /usr/local"))
	require.Equal(t, "COS_OEM", m.sh("findmnt -no LABEL /oem"))
	require.Equal(t, "active", m.sh("ls /run/cos | sed -n 's/_mode$//p'"))
	require.Empty(t, m.boot().Problems)
	require.Equal(t, "active", m.sh("systemctl is-active muster"))
	require.Equal(t, version, m.version())
}

func TestABIOSMachineBootsReadOnlyAndKeepsWhatIsPersistent(t *testing.T) {
	parallel(t)
	m := formed(t, vm.Options{})
	requireLayout(t, m)
	require.Empty(t, m.sh("systemctl --failed --no-legend --plain | grep -v systemd-timesyncd || true"))
	// The disk was made small, and has grown.
	require.Equal(t, "1", m.sh("[ $(df -m --output=size /usr/local | tail -1) -gt 1000 ] && echo 1"))

	identity := m.identity()
	m.sh("echo 1 >/etc/gone; echo 1 >/var/gone; echo 1 >/usr/local/kept; echo 1 >/oem/kept; sync")
	m.reboot()
	m.waitReady()
	requireLayout(t, m)
	require.Equal(t, "/oem/kept /usr/local/kept", m.sh("ls /etc/gone /var/gone /oem/kept /usr/local/kept 2>/dev/null | sort | tr '\\n' ' ' | sed 's/ $//'"))
	require.Equal(t, identity, m.identity())
}

func TestAUEFIMachineBootsTheSameDisk(t *testing.T) {
	parallel(t)
	m := start(t, vm.Options{Disk: overlay(t, formedDisk(t, bare)), Firmware: vm.UEFI})
	m.waitReady()
	requireLayout(t, m)
	require.Contains(t, m.sh("ls /sys/firmware"), "efi")
}

// identity is what makes the machine the same one over boots and images.
func (m *machine) identity() string {
	m.t.Helper()
	s := m.status()
	require.NotEmpty(m.t, s.ID)
	require.NotEmpty(m.t, s.Address)
	return strings.Join([]string{s.ID, s.Site, s.Address, m.sh("cat /etc/machine-id"), m.sh("sha256sum /etc/ssh/ssh_host_*_key")}, "\n")
}

func TestTheDataPathLivesWhileTheAgentRestarts(t *testing.T) {
	parallel(t)
	m := formed(t, vm.Options{})
	s := m.status()
	device := m.sh("ip -o -4 address show | awk -v a=" + s.Address + " 'index($4, a \"/\") == 1 {print $2}'")
	require.NotEmpty(t, device)
	require.Contains(t, m.sh("ip -d link show "+device), "wireguard", "the kernel's device")
	index := m.sh("cat /sys/class/net/" + device + "/ifindex")
	m.sh("systemctl kill --signal=KILL muster; sleep 1; systemctl restart muster")
	m.waitReady()
	require.Equal(t, index, m.sh("cat /sys/class/net/"+device+"/ifindex"), "the device was never taken away")
}
