package lab

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
	// A place of its own: other packages' tests mount things, too, while these look for what is left.
	dir, err := os.MkdirTemp("", "lab-test-")
	if err == nil {
		err = os.Setenv("TMPDIR", dir)
	}
	code := 1
	if err == nil {
		code = m.Run()
	}
	if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

var parts map[string]func(args []string) error

func init() {
	parts = map[string]func(args []string) error{
		InitCommand: Init,
		"agent":     fakeAgent,
		"why":       fakeWhy,
		"lab-up":    fakeUp,
		"tell":      fakeTell,
		"hear":      fakeHear,
		"orphan":    fakeOrphan,
		"echo":      fakeEcho,
		"ask":       fakeAsk,
	}
}

const fakeStamp = "/usr/local/fake-boots" // one byte per start of the agent

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
	tell, err := fakeAPI()
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
		tell(rows)
	}
}

// fakeAPI answers as an agent does, with the rows that it was last told.
func fakeAPI() (tell func([]Row), err error) {
	if err := os.MkdirAll(filepath.Dir(apiSocket), 0o700); err != nil {
		return nil, err
	}
	if err := os.Remove(apiSocket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := net.Listen("unix", apiSocket)
	if err != nil {
		return nil, err
	}
	var now atomic.Pointer[[]Row]
	now.Store(&[]Row{})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/nodes", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(*now.Load()) })
	go func() { _ = http.Serve(listener, mux) }()
	return func(rows []Row) { now.Store(&rows) }, nil
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

// fakeHear prints how many datagrams arrive at args[0], from the line "ready" until its standard input has ended and none came for args[1].
func fakeHear(args []string) error {
	quiet, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	conn, err := net.ListenPacket("udp4", args[0])
	if err != nil {
		return err
	}
	raw, err := conn.(*net.UDPConn).SyscallConn()
	if err != nil {
		return err
	}
	var forced error // whatever net.core.rmem_max says
	if err := raw.Control(func(fd uintptr) { forced = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20) }); err != nil || forced != nil {
		return errors.Join(err, forced)
	}
	fmt.Println("ready")
	var told atomic.Bool
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // its end is what counts
		told.Store(true)
		_ = conn.SetReadDeadline(time.Now().Add(quiet))
	}()
	count := 0
	for buffer := make([]byte, 64); ; count++ {
		if _, _, err := conn.ReadFrom(buffer); err != nil {
			fmt.Println(count)
			return nil
		}
		if told.Load() {
			if err := conn.SetReadDeadline(time.Now().Add(quiet)); err != nil {
				return err
			}
		}
	}
}

// fakeEcho sends back what one TCP connection to args[0] brings.
func fakeEcho(args []string) error {
	listener, err := net.Listen("tcp4", args[0])
	if err != nil {
		return err
	}
	conn, err := listener.Accept()
	if err != nil {
		return err
	}
	_, err = io.Copy(conn, conn)
	return errors.Join(err, conn.Close())
}

// fakeAsk prints how long one byte takes to the echo at args[0] and back, after a megabyte came back as it was.
func fakeAsk(args []string) error {
	var conn net.Conn
	var err error
	for range 100 { // until the echo listens
		if conn, err = net.Dial("tcp4", args[0]); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	sent := make([]byte, 1<<20)
	for i := range sent {
		sent[i] = byte(i * 7 >> 3)
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := conn.Write(sent)
		wrote <- err
	}()
	back := make([]byte, len(sent))
	if _, err := io.ReadFull(conn, back); err != nil {
		return err
	}
	if err := <-wrote; err != nil {
		return err
	}
	if !bytes.Equal(sent, back) {
		return errors.New("what came back is not what was sent")
	}
	start := time.Now()
	if _, err := conn.Write(sent[:1]); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, back[:1]); err != nil {
		return err
	}
	fmt.Println(time.Since(start))
	return nil
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
