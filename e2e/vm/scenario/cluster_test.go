package scenario

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/vm"
)

// twoMachines boots one disk image twice, on one segment; the MAC address is all that differs, and what the clock of the second says.
func twoMachines(t *testing.T, k3s bool, ahead time.Duration) (master, worker *machine) {
	t.Helper()
	n := newNetwork(t)
	disk := systemFor(k3s).disk(t, testName(t), siteConfig(t, 2, k3s))
	var machines []*machine
	for i := range 2 {
		opts := vm.Options{
			Name: fmt.Sprintf("%s-%d", testName(t), i+1), Disk: overlay(t, disk), Network: n, ClockOffset: time.Duration(i) * ahead,
		}
		if k3s {
			opts.CPUs = 2 // it starts too slowly with one
		}
		machines = append(machines, start(t, opts))
	}
	for _, m := range machines {
		m.waitReady()
	}
	for _, m := range machines {
		switch role := m.status().Role; role {
		case "worker":
			worker = m
		default:
			require.Contains(t, []string{"master", "master/clusterinit"}, role)
			master = m
		}
	}
	require.NotNil(t, master)
	require.NotNil(t, worker)
	return master, worker
}

// To form a site with Kubernetes takes emulated machines most of ten minutes, so one site shows all that needs one. No other machine runs
// while a K3s server starts: what takes too long it gives up, and begins anew.
func TestTwoMachinesFromOneDiskImageBecomeMasterAndWorker(t *testing.T) {
	master, worker := twoMachines(t, true, 0)
	m, w := master.status(), worker.status()
	require.NotEqual(t, m.ID, w.ID)
	require.NotEqual(t, m.Address, w.Address)
	require.Equal(t, m.Site, w.Site)
	require.NotEqual(t, master.sh("cat /etc/machine-id"), worker.sh("cat /etc/machine-id"))
	nodes := strings.Split(master.sh("k3s kubectl get nodes --no-headers"), "\n")
	require.Len(t, nodes, 2)
	for _, node := range nodes {
		require.Contains(t, node, " Ready ")
	}

	// Each part goes on with what is before it.
	run := func(name string, part func(t *testing.T, master, worker *machine)) bool {
		return t.Run(name, func(t *testing.T) { part(t, master.in(t), worker.in(t)) })
	}
	if !run("packets go through the kernel's device", requireKernelDevice) ||
		!run("a new image is kept while the site is down", requireKeepsItsNewImageWhileItsSiteIsDown) {
		return
	}
	bad := bare.push(t, "v3-k3s-dead") // bare's K3s ends whenever it is started
	worker.upgrade(bad)
	takeRoom(t, 2)
	t.Parallel() // begun before the others that are, as the first test of the first file
	run("an image whose own K3s never starts ends on the old slot", func(t *testing.T, _, worker *machine) {
		worker.reboot()
		worker.waitBooted("active", bootTime)
		require.Equal(t, "v3-k3s-dead", worker.version())
		requireFallenBack(t, worker, "v2", bad, "k3s|K3s|Kubernetes|kubernetes")
	})
}

// requireKernelDevice asks for pings also while the agent of either is away.
func requireKernelDevice(t *testing.T, master, worker *machine) {
	m, w := master.status(), worker.status()
	ping := "ping -q -c 1 -W 5 " + m.Address
	worker.sh(ping)
	device := worker.sh("ip -o -4 address show | awk -v a=" + w.Address + " 'index($4, a \"/\") == 1 {print $2}'")
	require.Contains(t, worker.sh("ip -d link show "+device), "wireguard")
	worker.sh("systemctl stop muster")
	master.sh("systemctl stop muster")
	worker.sh(ping)
	master.sh("systemctl start muster")
	worker.sh("ping -q -i 0.2 -c 50 -W 5 " + m.Address + " >/run/ping 2>&1 & systemctl restart muster; wait $!")
	require.Contains(t, worker.sh("cat /run/ping"), " 0% packet loss")
	master.waitReady()
	worker.waitReady()
}

// requireKeepsItsNewImageWhileItsSiteIsDown upgrades the worker of a site whose only master is off: the image is neither good nor bad
// until the master is back, and the node says so.
func requireKeepsItsNewImageWhileItsSiteIsDown(t *testing.T, master, worker *machine) {
	v2 := whole.push(t, "v2")
	master.PowerCut()
	worker.upgrade(v2)
	worker.reboot()
	worker.waitBooted("active", bootTime)
	require.Equal(t, "v2", worker.version())
	boots := worker.Boots()
	// Longer than it would have if it were ill itself. In the meantime what other tests start from is made.
	deadline := time.Now().Add(healthDeadline + time.Minute)
	formedDisk(t, bare)
	time.Sleep(time.Until(deadline))
	require.Equal(t, boots, worker.Boots(), "the node rebooted")
	s := worker.state()
	require.Equal(t, "active", s.Booted)
	require.False(t, s.Slots["active"].Good)
	require.Empty(t, s.Quarantined)
	why, err := worker.try("muster why")
	require.NoError(t, err)
	require.Regexp(t, "(?i)image|upgrade|trial", why)

	master.powerOn()
	worker.waitReady()
	worker.waitGood()
	require.Equal(t, boots, worker.Boots())
	require.Equal(t, "v2", worker.version())
}

// Without Kubernetes: its certificates are dated, and nobody can help a node whose clock says that they are not valid yet.
func TestS10MachinesWhoseClocksAreAnHourApartAreOneSite(t *testing.T) {
	parallel(t)
	right, wrong := twoMachines(t, false, time.Hour)
	hoursApart := func() float64 {
		now, err := strconv.ParseInt(wrong.sh("date +%s"), 10, 64)
		require.NoError(t, err)
		return time.Until(time.Unix(now, 0)).Hours()
	}
	reaches := func(from *machine, to status) {
		from.eventually(time.Minute, "a ping to be answered", func() bool {
			_, err := from.try("ping -q -c 1 -W 2 " + to.Address)
			return err == nil
		})
	}
	if hoursApart() < 0.5 {
		right, wrong = wrong, right
	}
	require.InDelta(t, 1, hoursApart(), 0.2)
	r, w := right.status(), wrong.status()
	reaches(wrong, r)
	reaches(right, w)

	// A battery that is empty: it comes up in the past, and WireGuard takes what it says for old.
	wrong.PowerCut()
	wrong.SetClockOffset(-time.Hour)
	wrong.powerOn()
	wrong.waitReady()
	require.InDelta(t, -1, hoursApart(), 0.2)
	reaches(wrong, r)
	reaches(right, w)
	require.Equal(t, w.identityOf(), wrong.status().identityOf())
	require.Equal(t, r.identityOf(), right.status().identityOf())

	// A clock that is set while all runs.
	right.sh("date -s '+3 hours' >/dev/null")
	reaches(wrong, r)
	reaches(right, w)
	right.waitReady()
	require.Equal(t, w.identityOf(), wrong.status().identityOf())
}

// identityOf is what no clock may change.
func (s status) identityOf() [4]string { return [4]string{s.ID, s.Site, s.Role, s.Address} }

func TestAResetMachineKeepsOEMAndJoinsAsANewNode(t *testing.T) {
	parallel(t)
	m := formed(t, vm.Options{})
	before := m.status()
	id := m.sh("cat /etc/machine-id")
	m.sh("echo 1 >/usr/local/gone; echo 1 >/oem/kept; sync")
	boots := m.Boots()
	_, err := m.try("muster reset --yes")
	var exit *vm.ExitError
	require.False(t, errors.As(err, &exit), "%v", err) // what it prints may be lost in the restart
	// Through recovery, and back by itself.
	m.eventually(fallTime, "the machine to be back", func() bool { return m.Boots() >= boots+2 && m.boot().Slot == "active" })
	m.waitReady()
	after := m.status()
	require.NotEqual(t, before.ID, after.ID, "a new node")
	require.NotEqual(t, id, m.sh("cat /etc/machine-id"))
	require.Equal(t, "/oem/90_custom.yaml /oem/kept", m.sh("ls /oem/90_custom.yaml /oem/kept /usr/local/gone 2>/dev/null | tr '\\n' ' ' | sed 's/ $//'"))
}
