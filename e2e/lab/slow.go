package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A slow link is one whose frames a process of the lab's own carries, because sch_netem is missing from many kernels. The
// node's port leaves the bridge; a second pair takes its place there, and the process passes every frame on, in order, when it
// is old enough:
//
//	eth0 ── port ── process ── far ── spliced ── bridge

const roleSlow = "slow"

// splicedName is the end of the second pair that is in the bridge in the port's place, farName its other end.
func splicedName(subnet, number int) string { return fmt.Sprintf("q%d-n%d", subnet, number) }
func farName(subnet, number int) string     { return fmt.Sprintf("r%d-n%d", subnet, number) }

// bridgePort is the name of the bridge's port that leads to a node.
func (s *state) bridgePort(n *node) string {
	if n.Delay > 0 {
		return splicedName(s.Subnet, n.Number)
	}
	return portName(s.Subnet, n.Number)
}

// slowTask is what the process of a slow link is told.
type slowTask struct {
	Near  string        `json:"near"`
	Far   string        `json:"far"`
	Delay time.Duration `json:"delay"`
}

// slowDown gives a link its delay, or takes it away. The cable must be laid.
func (l *Lab) slowDown(ctx context.Context, s *state, n *node) error {
	h, err := s.netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	if err := n.Slow.kill(ctx); err != nil {
		return err
	}
	n.Slow = process{}
	if err := removeLink(h, splicedName(s.Subnet, n.Number)); err != nil {
		return err
	}
	port, err := h.LinkByName(portName(s.Subnet, n.Number))
	if err != nil {
		return fmt.Errorf("find the cable of %s: %w", n.Name, err)
	}
	bridge, err := h.LinkByName(s.Bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", s.Bridge, err)
	}
	if n.Delay == 0 {
		if err := h.LinkSetMaster(port, bridge); err != nil {
			return fmt.Errorf("put the port of %s into the bridge: %w", n.Name, err)
		}
		return nil
	}
	if err := h.LinkSetNoMaster(port); err != nil {
		return fmt.Errorf("take the port of %s out of the bridge: %w", n.Name, err)
	}
	pair := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: splicedName(s.Subnet, n.Number), MasterIndex: bridge.Attrs().Index, TxQLen: 1000},
		PeerName:  farName(s.Subnet, n.Number),
	}
	if err := h.LinkAdd(pair); err != nil {
		return fmt.Errorf("splice the link of %s: %w", n.Name, err)
	}
	for _, name := range []string{pair.PeerName, pair.Name} {
		if err := linkUp(h, name); err != nil {
			return err
		}
	}
	var born *seed
	err = InNetNS(netNSPath(s.Switch), func() error {
		born, err = spawn(s.Binary, roleSlow, l.dir, n.Name+"-link", 0, nil)
		return err
	})
	if err != nil {
		return err
	}
	n.Slow = born.process
	if err := s.save(l.dir); err != nil {
		born.drop()
		return err
	}
	return born.grow(ctx, n.Name, slowTask{Near: portName(s.Subnet, n.Number), Far: pair.PeerName, Delay: n.Delay})
}

// initSlow is the process of a slow link.
func initSlow(raw []byte) (func() error, error) {
	var task slowTask
	if err := json.Unmarshal(raw, &task); err != nil {
		return nil, fmt.Errorf("read task: %w", err)
	}
	near, err := openFrames(task.Near)
	if err != nil {
		return nil, err
	}
	far, err := openFrames(task.Far)
	if err != nil {
		return nil, err
	}
	return func() error {
		signal.Ignore(syscall.SIGHUP, syscall.SIGINT)
		end := make(chan os.Signal, 1)
		signal.Notify(end, syscall.SIGTERM)
		// Both ends are gone when the cable is: then the kernel says so to the readers, and the process has nothing to do.
		done := make(chan error, 2)
		go func() { done <- carry(near, far, task.Delay) }()
		go func() { done <- carry(far, near, task.Delay) }()
		select {
		case <-end:
			return nil
		case err := <-done:
			return err
		}
	}, nil
}

// openFrames opens a device for whole frames, those that offloading left unfinished too: the header in front of each frame
// says what is still to be done, and the kernel that takes it at the other end goes on from there.
func openFrames(name string) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("frames of %s: %w", name, err)
	}
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
			unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1), // what we ourselves send
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 16<<20),
		)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: hton16(unix.ETH_P_ALL), Ifindex: link.Attrs().Index})
	}
	if err != nil {
		_ = unix.Close(fd) // never used
		return -1, fmt.Errorf("frames of %s: %w", name, err)
	}
	return fd, nil
}

func hton16(v uint16) uint16 { return v<<8 | v>>8 }

const (
	// largestFrame is a GSO frame of 64 KiB with its headers.
	largestFrame = 10 + 1<<16 + 64
	// slowQueue is how many frames are under way each way; what does not fit is lost, as in a router.
	slowQueue = 8192
)

type frame struct {
	due time.Time
	raw []byte
}

// carry passes frames on until the device is gone.
func carry(from, to int, delay time.Duration) error {
	queue := make(chan frame, slowQueue)
	go func() {
		timer := time.NewTimer(0)
		defer timer.Stop()
		for f := range queue {
			if wait := time.Until(f.due); wait > 0 {
				timer.Reset(wait)
				<-timer.C
			}
			// A device that is down, or full, loses frames; so do cables.
			_, _ = unix.Write(to, f.raw)
		}
	}()
	defer close(queue)
	buffer := make([]byte, largestFrame)
	for {
		n, err := unix.Read(from, buffer)
		switch {
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENETDOWN): // the latter: the cable was pulled
			continue
		case err != nil:
			return fmt.Errorf("read frames: %w", err)
		}
		select {
		case queue <- frame{time.Now().Add(delay), append([]byte(nil), buffer[:n]...)}:
		default:
		}
	}
}
