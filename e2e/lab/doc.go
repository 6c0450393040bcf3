// Package lab runs a whole site of real machines on one computer: every node is a process tree in its own network, mount,
// PID and UTS namespaces, and a bridge joins them. A lab of twenty nodes boots in seconds; nothing in it is simulated except
// the hardware.
//
// # What a node is
//
// A node's PID 1 is the muster binary itself (the hidden command "muster lab-init"). It gives the node a read-only /usr, an
// /etc that starts fresh at every boot, empty /run and /tmp, and the directories that survive a power cut: /oem, /usr/local,
// /etc/rancher, /var/lib/rancher, /var/lib/kubelet and /var/log, kept under DIR/nodes/NAME. Then it runs the agent, reaps
// orphans, and stays when the agent dies, as a machine does.
//
// # Why nothing stays behind
//
// No namespace, mount, link or bridge has a name outside the lab: all of them hang on processes, and the kernel removes them
// with the last process that uses them. So taking a lab down is ending its processes and removing its directory, and there is
// no state in which a crash leaves something that [Lab.Down] cannot find: a process starts work only after it has been
// written to DIR/lab.json, and as a second net Down also looks for processes that carry the directory in their arguments.
// A process is remembered with its start time, so that a recycled PID is never signalled.
//
// # The network
//
// Each lab has a switch: a network namespace with one bridge, held by a process of its own. Node i has the address
// 172.30.x.i/16 on eth0 and the switch itself 172.30.x.254, where x belongs to the lab (claimed among all running labs).
// The common /16 is what lets two labs that name the same bridge be two sites on one LAN. The host's own network namespace is
// never touched. There is no way from a lab to the Internet.
//
// A node may be behind a NAT router of its own: a further namespace, which has the node's place and address on the switch, and
// behind it 192.168.1.0/24, the same for all of them. In every node nI.lab is the address that node I, or its router, has on the
// switch, and switch.lab the switch's own. Kinds are full cone, restricted and symmetric; see [NAT].
//
// Loss, one-way cuts, cut cables and partitions are nftables rules and link states in the switch. Delay would need sch_netem,
// which many kernels lack: the frames of a slow link go through a process of the lab's own (slow.go).
package lab
