package vpn

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ipc"
	"golang.zx2c4.com/wireguard/tun"
)

// Mode says where WireGuard runs.
type Mode string

// The modes of a device.
const (
	// ModeAuto takes the kernel's device and falls back to user space.
	ModeAuto Mode = "auto"
	// ModeKernel refuses to run without the kernel's device.
	ModeKernel Mode = "kernel"
	// ModeUser runs WireGuard in this process.
	ModeUser Mode = "user"
)

// link is a WireGuard interface that exists and answers to wgctrl by name.
type link interface {
	mode() Mode
	// close ends what lives in this process. The kernel's device is left in
	// place, with its peers, so that an agent that restarts does not take the
	// data path down.
	close() error
}

func openLink(name string, mode Mode, mtu int, log *slog.Logger) (link, error) {
	switch mode {
	case ModeKernel, ModeUser, ModeAuto:
	default:
		return nil, fmt.Errorf("open VPN device: unknown mode %q (use auto, kernel or user)", mode)
	}
	if mode != ModeUser {
		err := ensureKernelLink(name)
		if err == nil {
			return kernelLink{}, nil
		}
		if mode == ModeKernel || !errors.Is(err, unix.EOPNOTSUPP) {
			return nil, fmt.Errorf("open VPN device %s in the kernel: %w", name, err)
		}
		log.Info("kernel has no WireGuard, running it in user space", "interface", name)
	}
	return openUserLink(name, mtu, log)
}

type kernelLink struct{}

func (kernelLink) mode() Mode   { return ModeKernel }
func (kernelLink) close() error { return nil }

func ensureKernelLink(name string) error {
	existing, err := netlink.LinkByName(name)
	if err == nil {
		if existing.Type() == "wireguard" {
			return nil
		}
		// A TUN device that a run in user space left behind.
		if err := netlink.LinkDel(existing); err != nil {
			return fmt.Errorf("remove %s device in the way: %w", existing.Type(), err)
		}
	}
	return netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: name}})
}

// userLink is WireGuard in this process, with the control socket that wgctrl
// and wg(8) expect.
type userLink struct {
	device   *device.Device
	listener net.Listener
	done     chan struct{}
}

func openUserLink(name string, mtu int, log *slog.Logger) (link, error) {
	tunnel, err := tun.CreateTUN(name, mtu)
	if err != nil {
		return nil, fmt.Errorf("create TUN device %s: %w (is /dev/net/tun there, and this process root?)", name, err)
	}
	dev := device.NewDevice(tunnel, conn.NewDefaultBind(), &device.Logger{
		Verbosef: device.DiscardLogf,
		Errorf:   func(format string, args ...any) { log.Warn("wireguard: " + fmt.Sprintf(format, args...)) },
	})
	socket, err := ipc.UAPIOpen(name)
	if err != nil {
		dev.Close()
		return nil, fmt.Errorf("open control socket of %s: %w", name, err)
	}
	listener, err := ipc.UAPIListen(name, socket)
	if err != nil {
		dev.Close()
		return nil, errors.Join(fmt.Errorf("listen on control socket of %s: %w", name, err), socket.Close())
	}
	l := &userLink{device: dev, listener: listener, done: make(chan struct{})}
	go l.serveControl()
	return l, nil
}

func (l *userLink) mode() Mode { return ModeUser }

func (l *userLink) serveControl() {
	defer close(l.done)
	for {
		c, err := l.listener.Accept()
		if err != nil {
			return // closed: the only way in which Accept ends here
		}
		l.device.IpcHandle(c)
	}
}

func (l *userLink) close() error {
	err := l.listener.Close()
	l.device.Close()
	<-l.done
	if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
