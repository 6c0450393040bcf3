package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/muster-edge/muster/e2e/lab"
)

// labVIP is on the network of every lab, and no node's.
const labVIP = "172.30.255.200"

// ownVIP lets the masters themselves hold labVIP.
func ownVIP() map[string]any { return map[string]any{"enable": false, "eip": labVIP} }

func holds(d decision, id string) bool {
	return strings.Contains(string(d.Value), id) && strings.Contains(string(d.Value), `"held"`)
}

// addressWatch looks at the links of all nodes all the time.
type addressWatch struct {
	s       *testSite
	address netip.Addr
	stop    context.CancelFunc
	done    sync.WaitGroup

	mu    sync.Mutex
	nodes map[string]*netlink.Handle
	on    []string
	looks int
	err   error
}

// watchAddress fails the test if the address is ever on two nodes.
func (s *testSite) watchAddress(address string) *addressWatch {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	w := &addressWatch{s: s, address: netip.MustParseAddr(address), stop: cancel, nodes: map[string]*netlink.Handle{}}
	for name, row := range s.rows() {
		w.add(name, row.PID)
	}
	w.done.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			w.look()
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	s.t.Cleanup(func() {
		cancel()
		w.done.Wait()
		for _, h := range w.nodes {
			h.Close()
		}
	})
	return w
}

// add watches a node, also one that was started again.
func (w *addressWatch) add(name string, pid int) {
	w.s.t.Helper()
	ns, err := netns.GetFromPath(fmt.Sprintf("/proc/%d/ns/net", pid))
	require.NoError(w.s.t, err)
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	require.NoError(w.s.t, err)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes[name] = h
}

func (w *addressWatch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	on := w.holders()
	if len(on) > 1 {
		// Two looks are not one moment: who still has it now had it at the same time.
		if again := w.holders(); len(again) > 1 {
			w.err = errors.Join(w.err, fmt.Errorf("at %s the address %s is on %v", time.Now().Format(time.TimeOnly), w.address, again))
		}
	}
	w.on, w.looks = on, w.looks+1
}

func (w *addressWatch) holders() []string {
	var on []string
	for name, h := range w.nodes {
		all, err := h.AddrList(nil, netlink.FAMILY_V4)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			w.err = errors.Join(w.err, fmt.Errorf("addresses of %s: %w", name, err))
		}
		for _, a := range all {
			if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.Unmap() == w.address {
				on = append(on, name)
			}
		}
	}
	slices.Sort(on)
	return on
}

// waitOn waits until the address is on one of the nodes named, and returns it.
func (w *addressWatch) waitOn(names ...string) string {
	w.s.t.Helper()
	holder := ""
	w.s.eventually(2*soonTime, fmt.Sprintf("%s is on one of %v", w.address, names), func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.on) != 1 || !slices.Contains(names, w.on[0]) {
			return fmt.Errorf("it is on %v", w.on)
		}
		holder = w.on[0]
		return nil
	})
	w.s.t.Logf("%s is on %s", w.address, holder)
	return holder
}

// end makes sure that the address was never on two nodes.
func (w *addressWatch) end() {
	w.s.t.Helper()
	w.stop()
	w.done.Wait()
	require.NoError(w.s.t, w.err)
	w.s.t.Logf("%d looks", w.looks)
}

// requireAPIAtVIP makes sure that what a master prints for an administrator works
// from another node, through the virtual address.
func (s *testSite) requireAPIAtVIP(master, from string) {
	s.t.Helper()
	kubeconfig := s.run(master, "muster", "kubeconfig")
	require.Contains(s.t, kubeconfig, "https://"+labVIP+":6443")
	require.Contains(s.t, s.k3sConfig(master)["tls-san"], labVIP)
	const script = `umask 077; cat > /tmp/kubeconfig && k3s kubectl --kubeconfig /tmp/kubeconfig get nodes -o name; code=$?; rm /tmp/kubeconfig; exit $code`
	s.eventually(soonTime, "the API server answers at the virtual address", func() error {
		var out, errOut bytes.Buffer
		err := s.Run(s.t.Context(), from, lab.Command{Args: []string{"/bin/sh", "-c", script}, Stdin: strings.NewReader(kubeconfig), Stdout: &out, Stderr: &errOut})
		if err != nil {
			return fmt.Errorf("%w: %s", err, errOut.String())
		}
		if !strings.Contains(out.String(), "node/"+s.rows()[master].Hostname) {
			return fmt.Errorf("nodes: %s", out.String())
		}
		return nil
	})
}
