package lab

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/p2p"
)

// The test binary plays every part: without one of these words it is the tests, with "lab-init" it is PID 1 of a node, and as
// /usr/local/bin/muster in a node it is the agent and its command line. The fake agent greets all others by multicast and keeps
// a list of whom it heard, which is enough for everything that the lab asks an agent.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if part, ok := parts[os.Args[1]]; ok {
			if err := part(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

var parts map[string]func(args []string) error

func init() {
	parts = map[string]func(args []string) error{
		InitCommand: Init,
		"agent":     fakeAgent,
		"nodes":     fakeNodes,
		"why":       fakeWhy,
		"lab-up":    fakeUp,
		"tell":      fakeTell,
		"hear":      fakeHear,
		"orphan":    fakeOrphan,
	}
}

const (
	fakeState = "/run/fake.json"
	fakeStamp = "/usr/local/fake-boots" // one byte per start of the agent
)

var fakeGroup = &net.UDPAddr{IP: net.IPv4(239, 77, 77, 77), Port: 7777}

// fakeAgent has a role as soon as it hears as many nodes as FAKE_ROLES says.
func fakeAgent([]string) error {
	enough, _ := strconv.Atoi(os.Getenv("FAKE_ROLES")) // absent: never
	self := os.Getenv("MUSTER_HARDWARE_ID")
	stamp, err := os.OpenFile(fakeStamp, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := stamp.WriteString("x"); err != nil {
		return err
	}
	fmt.Println("fake agent of", self)
	listener, err := net.ListenMulticastUDP("udp4", nil, fakeGroup)
	if err != nil {
		return err
	}
	sender, err := net.DialUDP("udp4", nil, fakeGroup)
	if err != nil {
		return err
	}
	heard := map[string]bool{self: true}
	for buffer := make([]byte, 64); ; {
		if _, err := sender.Write([]byte(self)); err != nil {
			fmt.Println(err) // the cable may be out
		}
		if err := listener.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			return err
		}
		for {
			n, _, err := listener.ReadFromUDP(buffer)
			if err != nil {
				break
			}
			heard[string(buffer[:n])] = true
		}
		rows := []Row{{ID: self, Path: "self", Phase: "fake", Address: "10.1.0.1"}}
		if enough > 0 && len(heard) >= enough {
			rows[0].Role, rows[0].Ready = "master", true
		}
		for id := range heard {
			if id != self {
				rows = append(rows, Row{ID: id, Path: "lan"})
			}
		}
		raw, err := json.Marshal(rows)
		if err != nil {
			return err
		}
		if err := p2p.WriteFile(fakeState, raw, 0o600); err != nil {
			return err
		}
	}
}

func fakeNodes([]string) error {
	raw, err := os.ReadFile(fakeState)
	if err == nil {
		_, err = os.Stdout.Write(raw)
	}
	return err
}

func fakeWhy([]string) error {
	fmt.Println("waiting for a second node")
	return nil
}

// fakeUp is `muster lab up` as a process of its own, so that it can be killed: args are DIR and the number of nodes.
func fakeUp(args []string) error {
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	l, err := New(Options{Dir: args[0], Nodes: count, Until: UntilReady})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctxForChild(), syscall.SIGINT)
	defer stop()
	return l.Up(ctx)
}

// fakeTell sends args[1] numbered datagrams to args[0].
func fakeTell(args []string) error {
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	conn, err := net.Dial("udp4", args[0])
	if err != nil {
		return err
	}
	for i := range count {
		if _, err := fmt.Fprint(conn, i); err != nil && !strings.Contains(err.Error(), "refused") {
			return err
		}
	}
	return nil
}

// fakeHear prints how many datagrams arrive at args[0], from the line "ready" until none came for args[1].
func fakeHear(args []string) error {
	quiet, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	conn, err := net.ListenPacket("udp4", args[0])
	if err != nil {
		return err
	}
	if err := conn.(*net.UDPConn).SetReadBuffer(4 << 20); err != nil {
		return err
	}
	fmt.Println("ready")
	count := 0
	for buffer := make([]byte, 64); ; {
		if err := conn.SetReadDeadline(time.Now().Add(quiet)); err != nil {
			return err
		}
		if _, _, err := conn.ReadFrom(buffer); err != nil {
			fmt.Println(count)
			return nil
		}
		count++
	}
}

// fakeOrphan leaves a process behind whose parent has ended.
func fakeOrphan([]string) error {
	_, err := syscall.ForkExec("/usr/bin/sleep", []string{"sleep", "1000"}, &syscall.ProcAttr{
		Files: []uintptr{0}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err == unix.ENOENT {
		return fmt.Errorf("no sleep: %w", err)
	}
	return err
}
