package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	roleNode = "node"
	nodeLink = "eth0"
	// nodePath is the PATH of everything that runs in a node.
	nodePath  = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	agentPath = "/usr/local/bin/muster"
)

// nodeTask is what PID 1 of a node is told by its starter.
type nodeTask struct {
	Dir      string            `json:"dir"`  // of the node, on the host
	Log      string            `json:"log"`  // of the agent, on the host
	Addr     netip.Addr        `json:"addr"` // on the switch
	Subnet   int               `json:"subnet"`
	NAT      bool              `json:"nat"` // eth0 leads to a router of the node's own
	Hostname string            `json:"hostname"`
	Hardware string            `json:"hardware"`
	Binary   string            `json:"binary"`
	K3s      string            `json:"k3s"`
	Binds    map[string]string `json:"binds"`
	Env      []string          `json:"env"`
}

// environ is the environment of the agent and of commands run in the node.
func (t *nodeTask) environ() []string { return nodeEnviron(t.Hardware, t.Env) }

func nodeEnviron(hardware string, extra []string) []string {
	return append([]string{
		"PATH=" + nodePath, "HOME=/root", "USER=root", "LANG=C.UTF-8", "SHELL=/bin/sh", "MUSTER_HARDWARE_ID=" + hardware,
	}, extra...)
}

// initNode turns the process into PID 1 of a node: name, network, file systems, control socket. The function it returns serves
// until the power is cut.
func initNode(raw []byte) (func() error, error) {
	if os.Getpid() != 1 {
		return nil, errors.New("not PID 1 of a new PID namespace")
	}
	var task nodeTask
	if err := json.Unmarshal(raw, &task); err != nil {
		return nil, fmt.Errorf("read task: %w", err)
	}
	if err := unix.Sethostname([]byte(task.Hostname)); err != nil {
		return nil, fmt.Errorf("set hostname: %w", err)
	}
	if err := setUpLink(&task); err != nil {
		return nil, err
	}
	// Socket and log lie in the lab's directory, which the node no longer sees after the change of root.
	if err := os.Chdir(task.Dir); err != nil {
		return nil, err
	}
	if err := os.Remove(controlSocket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	control, err := net.Listen("unix", controlSocket) // relative: the whole path may be longer than a socket's may be
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(task.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the agent's log: %w", err)
	}
	if err := buildRoot(&task); err != nil {
		return nil, err
	}
	s := &supervisor{task: &task, log: log}
	return func() error { return s.serve(control) }, nil
}

func setUpLink(task *nodeTask) error {
	address, mask, gateway := task.Addr, subnetMask, subnetAddr(task.Subnet, switchHost)
	if task.NAT {
		address, mask, gateway = natNode, natMask, natRouter
	}
	h, err := netlink.NewHandle()
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer h.Close()
	if err := linkUp(h, "lo"); err != nil {
		return err
	}
	link, err := h.LinkByName(nodeLink)
	if err != nil {
		return fmt.Errorf("find %s: %w", nodeLink, err)
	}
	if err := addMaskedAddr(h, link, address, mask); err != nil {
		return err
	}
	if err := linkUp(h, nodeLink); err != nil {
		return err
	}
	// The default route also carries multicast; without one, sending to a group fails.
	if err := h.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice()}); err != nil {
		return fmt.Errorf("default route: %w", err)
	}
	return nil
}

// supervisor is what PID 1 does all its life: start the agent when told, reap whatever ends.
type supervisor struct {
	task *nodeTask
	log  *os.File

	mu      sync.Mutex
	agent   int // PID in the node; 0 while it does not run
	started time.Time
	ended   string // how the last one ended
}

func (s *supervisor) serve(control net.Listener) error {
	signals := make(chan os.Signal, 16)
	// Taken, not ignored: the agent would inherit it.
	signal.Notify(signals, syscall.SIGCHLD, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE)
	served := make(chan struct{})
	go func() {
		defer close(served)
		s.answerAll(control)
	}()
	for sig := range signals {
		if sig == syscall.SIGTERM {
			break
		}
		s.reap()
	}
	err := control.Close()
	<-served
	return err
}

// reap collects every child that has ended: the agent, and orphans of whatever ran in the node.
func (s *supervisor) reap() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if pid != s.agent {
			continue
		}
		s.agent = 0
		s.ended = fmt.Sprintf("exit status %d", status.ExitStatus())
		if status.Signaled() {
			s.ended = "signal " + unix.SignalName(status.Signal())
		}
		fmt.Fprintf(s.log, "lab: the agent ended: %s\n", s.ended)
	}
}

// start starts the agent unless it runs. The lock is held from before the fork until the PID is known, so that reap cannot
// miss an agent that ends at once.
func (s *supervisor) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.agent != 0 {
		return nil
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	pid, err := syscall.ForkExec(agentPath, []string{"muster", "agent"}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   s.task.environ(),
		Files: []uintptr{null.Fd(), s.log.Fd(), s.log.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start the agent: %w", err)
	}
	s.agent, s.started, s.ended = pid, time.Now(), ""
	return nil
}

// handle carries out one request.
func (s *supervisor) handle(r request) (reply, error) {
	switch r.Op {
	case opStart:
		if err := s.start(); err != nil {
			return reply{}, err
		}
	case opSignalAgent:
		s.mu.Lock()
		agent := s.agent
		var err error
		if agent != 0 {
			err = unix.Kill(agent, unix.Signal(r.Signal)) // still a child, zombie at worst, because reap needs the lock
		}
		s.mu.Unlock()
		if agent == 0 {
			return reply{}, errors.New("the agent does not run")
		}
		if err != nil {
			return reply{}, fmt.Errorf("signal the agent: %w", err)
		}
	case opSignalAll:
		// From PID 1, -1 is everybody in the node except PID 1.
		if err := unix.Kill(-1, unix.Signal(r.Signal)); err != nil && !errors.Is(err, unix.ESRCH) {
			return reply{}, fmt.Errorf("signal the node: %w", err)
		}
	case opStatus:
	default:
		return reply{}, fmt.Errorf("unknown request %q", r.Op)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return reply{Agent: s.agent, Started: s.started, Ended: s.ended}, nil
}

// persistent are the directories of a node that outlive a power cut: name under the node's directory, place in the node.
var persistent = []struct{ name, place string }{
	{"oem", "/oem"},
	{"usr-local", "/usr/local"},
	{"etc-rancher", "/etc/rancher"},
	{"var-lib-rancher", "/var/lib/rancher"},
	{"var-lib-kubelet", "/var/lib/kubelet"},
	{"var-log", "/var/log"},
}

// makeNodeDir creates what a node keeps; what is there stays.
func makeNodeDir(dir string) error {
	for _, d := range persistent {
		if err := os.MkdirAll(filepath.Join(dir, d.name), 0o755); err != nil {
			return fmt.Errorf("create node directory: %w", err)
		}
	}
	for _, d := range []string{"root", "usr-local/bin"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return fmt.Errorf("create node directory: %w", err)
		}
	}
	return nil
}
