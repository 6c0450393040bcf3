package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/p2p"
)

// pipeNet connects hosts in one process by pipes: a stream is as good as the
// writer and the reader, no kernel in between, so it runs in virtual time.
type pipeNet struct {
	mu       sync.Mutex
	handlers map[peer.ID]func(network.Stream)
}

type pipeHost struct {
	net  *pipeNet
	self peer.ID
}

type pipeStream struct {
	network.Stream
	net.Conn
	remote peer.ID
}

type pipeConn struct {
	network.Conn
	remote peer.ID
}

func (s pipeStream) Read(p []byte) (int, error)         { return s.Conn.Read(p) }
func (s pipeStream) Write(p []byte) (int, error)        { return s.Conn.Write(p) }
func (s pipeStream) Close() error                       { return s.Conn.Close() }
func (s pipeStream) Reset() error                       { return s.Conn.Close() }
func (s pipeStream) SetReadDeadline(t time.Time) error  { return s.Conn.SetReadDeadline(t) }
func (s pipeStream) SetWriteDeadline(t time.Time) error { return s.Conn.SetWriteDeadline(t) }
func (s pipeStream) SetDeadline(t time.Time) error      { return s.Conn.SetDeadline(t) }

type foundingStream struct{ pipeStream }

func (s foundingStream) Conn() network.Conn { return pipeConn{remote: s.remote} }

func (c pipeConn) RemotePeer() peer.ID { return c.remote }

func (h pipeHost) Handle(_ protocol.ID, _ p2p.Access, fn func(network.Stream)) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.net.handlers[h.self] = fn
}

func (h pipeHost) Unhandle(protocol.ID) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	delete(h.net.handlers, h.self)
}

func (h pipeHost) Open(_ context.Context, to peer.ID, _ protocol.ID) (network.Stream, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	fn := h.net.handlers[to]
	if fn == nil {
		return nil, errors.New("not reachable")
	}
	near, far := net.Pipe()
	go fn(foundingStream{pipeStream{Conn: far, remote: h.self}}) // ends with the stream
	return foundingStream{pipeStream{Conn: near, remote: to}}, nil
}

func (n *pipeNet) alive() []peer.ID {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []peer.ID
	for id := range n.handlers {
		out = append(out, id)
	}
	return out
}

// foundingLab is a site of real Foundings with real files.
type foundingLab struct {
	t     *testing.T
	net   *pipeNet
	ids   []*p2p.Identity // sorted by peer ID
	dirs  []string
	nodes []*Founding
}

func newFoundingLab(t *testing.T, n int) *foundingLab {
	lab := &foundingLab{t: t, net: &pipeNet{handlers: map[peer.ID]func(network.Stream){}}, nodes: make([]*Founding, n)}
	root := t.TempDir()
	for i := range n {
		id, _, err := p2p.OpenIdentity(filepath.Join(root, fmt.Sprint("id", i)), p2p.Hardware{ID: fmt.Sprint("machine ", i)})
		require.NoError(t, err)
		lab.ids = append(lab.ids, id)
		lab.dirs = append(lab.dirs, filepath.Join(root, fmt.Sprint("ledger", i)))
	}
	slices.SortFunc(lab.ids, func(a, b *p2p.Identity) int { return strings.Compare(a.ID().String(), b.ID().String()) })
	return lab
}

func (lab *foundingLab) propose() (*Genesis, []string) {
	g := &Genesis{Range: "10.1.0.0/16", Policy: json.RawMessage(`{"ha": true}`)}
	alive := lab.net.alive()
	for _, id := range lab.ids {
		if slices.Contains(alive, id.ID()) {
			g.Founders = append(g.Founders, id.ID().String())
		}
	}
	if len(g.Founders) < len(lab.ids) {
		return nil, []string{fmt.Sprintf("%d of %d nodes are seen", len(g.Founders), len(lab.ids))}
	}
	g.Masters = g.Founders[:min(3, (len(g.Founders)-1)|1)]
	return g, nil
}

type writeFunc func(path string, data []byte, perm os.FileMode) error

func (lab *foundingLab) start(i int, write writeFunc) {
	f, err := NewFounding(FoundingConfig{
		Dir: lab.dirs[i], Identity: lab.ids[i], Host: pipeHost{lab.net, lab.ids[i].ID()}, Alive: lab.net.alive,
		Propose: lab.propose, Log: slog.New(slog.DiscardHandler), write: write,
	})
	require.NoError(lab.t, err)
	lab.nodes[i] = f
}

func (lab *foundingLab) stop(i int) {
	if lab.nodes[i] != nil {
		lab.nodes[i].Close()
		lab.nodes[i] = nil
	}
}

func (lab *foundingLab) close() {
	for i := range lab.nodes {
		lab.stop(i)
	}
	synctest.Wait()
}

// requireOne waits until all have the same certificate, on disk.
func (lab *foundingLab) requireOne(within time.Duration) Certificate {
	lab.t.Helper()
	ctx, cancel := context.WithTimeout(lab.t.Context(), within)
	defer cancel()
	var first Certificate
	for i, f := range lab.nodes {
		c, err := f.Run(ctx)
		require.NoError(lab.t, err, "node %d waits: %v", i, f.Waiting())
		require.NoError(lab.t, c.Verify())
		require.Empty(lab.t, f.Waiting())
		if i == 0 {
			first = c
		}
		require.Equal(lab.t, first.Genesis.Digest(), c.Genesis.Digest())
		require.Equal(lab.t, first.Promises, c.Promises)
		state, err := readFoundingState(filepath.Join(lab.dirs[i], foundingFile))
		require.NoError(lab.t, err)
		require.Equal(lab.t, c.Genesis.Site, state.Founded.Genesis.Site, "on disk before Run returns")
	}
	return first
}

func TestTenFoundersStartedAtOnceHaveASiteWithinTwoSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab := newFoundingLab(t, 10)
		defer lab.close()
		for i := range lab.nodes {
			lab.start(i, nil)
		}
		c := lab.requireOne(2 * time.Second)
		require.Equal(t, lab.ids[0].ID().String(), c.Genesis.Proposer, "the lowest ID proposes")
		for i, dir := range lab.dirs {
			incarnation, err := Incarnation(dir)
			require.NoError(t, err)
			require.Equal(t, incarnation, c.Incarnation(lab.ids[i].ID().String()))
		}
	})
}

func TestFoundingWaitsForWhatProposeSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab := newFoundingLab(t, 3)
		defer lab.close()
		lab.start(0, nil)
		lab.start(1, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := lab.nodes[0].Run(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, []string{"2 of 3 nodes are seen"}, lab.nodes[0].Waiting())
		lab.start(2, nil)
		lab.requireOne(2 * time.Second)
	})
}

// A founder loses power at its n-th disk write, before it or right after it,
// for a moment or for long enough that the others give up on it.
func TestFounderKilledAtEachStepComesBackToTheSameSite(t *testing.T) {
	for node := range 4 {
		for step := 1; step <= 3; step++ {
			for _, written := range []bool{false, true} {
				for _, away := range []time.Duration{time.Second, 15 * time.Second} {
					t.Run(fmt.Sprintf("founder %d, write %d, written %v, away %v", node, step, written, away), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							lab := newFoundingLab(t, 4)
							defer lab.close()
							for i := range lab.nodes {
								if i == node {
									lab.start(i, powerCut(step, written))
								} else {
									lab.start(i, nil)
								}
							}
							ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
							defer cancel()
							_, _ = lab.nodes[node].Run(ctx) // until the power fails, or past that step
							lab.stop(node)
							time.Sleep(away) // virtual
							lab.start(node, nil)
							lab.requireOne(time.Minute)
						})
					})
				}
			}
		}
	}
}

var errPowerCut = errors.New("power cut")

func powerCut(at int, written bool) writeFunc {
	n := 0
	return func(path string, data []byte, perm os.FileMode) error {
		if n++; n < at {
			return p2p.WriteFile(path, data, perm)
		}
		if written && n == at {
			if err := p2p.WriteFile(path, data, perm); err != nil {
				return err
			}
		}
		return errPowerCut
	}
}

func TestRunNamesTheDiskThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab := newFoundingLab(t, 2)
		defer lab.close()
		lab.start(0, powerCut(1, false))
		lab.start(1, nil)
		_, err := lab.nodes[0].Run(t.Context())
		require.ErrorIs(t, err, errPowerCut)
		state, err := readFoundingState(filepath.Join(lab.dirs[0], foundingFile))
		require.NoError(t, err)
		require.Empty(t, state.Attempts)
	})
}

func TestAllFoundersKilledAtOnceAndStartedAgain(t *testing.T) {
	for step := 1; step <= 3; step++ {
		t.Run(fmt.Sprint("write ", step), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lab := newFoundingLab(t, 5)
				defer lab.close()
				for i := range lab.nodes {
					lab.start(i, powerCut(step, i%2 == 0))
				}
				time.Sleep(3 * time.Second) // virtual
				for i := range lab.nodes {
					lab.stop(i)
				}
				for _, i := range []int{3, 1, 4, 0, 2} {
					lab.start(i, nil)
				}
				lab.requireOne(2 * time.Minute)
			})
		})
	}
}

func TestFoundedNodeReturnsItsCertificateAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab := newFoundingLab(t, 3)
		defer lab.close()
		for i := range lab.nodes {
			lab.start(i, nil)
		}
		before := lab.requireOne(2 * time.Second)
		for i := range lab.nodes {
			lab.stop(i)
		}
		lab.start(1, nil)
		after, err := lab.nodes[1].Run(t.Context())
		require.NoError(t, err)
		require.Equal(t, before.Genesis.Digest(), after.Genesis.Digest())
	})
}

func TestClosedFoundingSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab := newFoundingLab(t, 2)
		lab.start(0, nil)
		f := lab.nodes[0]
		lab.close()
		_, err := f.Run(t.Context())
		require.ErrorIs(t, err, ErrFoundingClosed)
	})
}

func TestS5DamagedOrNewerFoundingFileIsRefused(t *testing.T) {
	lab := newFoundingLab(t, 1)
	cfg := FoundingConfig{Dir: lab.dirs[0], Identity: lab.ids[0], Host: pipeHost{lab.net, lab.ids[0].ID()}, Alive: lab.net.alive}
	require.NoError(t, os.MkdirAll(cfg.Dir, 0o700))
	for content, want := range map[string]string{`{"version":`: "damaged", `{"version":9}`: "version 9"} {
		require.NoError(t, os.WriteFile(filepath.Join(cfg.Dir, foundingFile), []byte(content), 0o600))
		_, err := NewFounding(cfg)
		require.ErrorContains(t, err, want)
	}
}

func TestFoundingTimingIsChecked(t *testing.T) {
	for want, change := range map[string]func(*FoundingTiming){
		"Tick must be positive": func(t *FoundingTiming) { t.Tick = -1 },
		"at least one tick":     func(t *FoundingTiming) { t.Stagger = 0 },
		"must stall":            func(t *FoundingTiming) { t.StallAfter = time.Second },
	} {
		timing := SiteFoundingTiming()
		change(&timing)
		_, err := timing.ticks()
		require.ErrorContains(t, err, want)
	}
	_, err := SiteFoundingTiming().ticks()
	require.NoError(t, err)
}
