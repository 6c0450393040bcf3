package vpn

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// pipeCarrier is a mesh of one stream, which the test reads.
type pipeCarrier struct {
	mu    sync.Mutex
	err   error
	reads chan *io.PipeReader
}

func (c *pipeCarrier) Reaches(string) bool { return true }

func (c *pipeCarrier) Open(context.Context, string) (io.WriteCloser, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	r, w := io.Pipe()
	c.reads <- r
	return w, nil
}

func testProxy(t *testing.T, c *pipeCarrier) (*proxy, *net.UDPConn) {
	t.Helper()
	wireguard, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	p, err := newProxy("peer", wireguard.LocalAddr().(*net.UDPAddr).Port, c, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = wireguard.Close()
		_ = p.close() // twice in one test
	})
	return p, wireguard
}

func TestPacketsGoThroughTheMeshAsTheyAre(t *testing.T) {
	c := &pipeCarrier{reads: make(chan *io.PipeReader, 1)}
	p, wireguard := testProxy(t, c)
	small, large := []byte("packet"), bytes.Repeat([]byte{7}, 9000)
	for _, b := range [][]byte{small, large} {
		_, err := wireguard.WriteToUDPAddrPort(b, p.endpoint())
		require.NoError(t, err)
	}
	r := <-c.reads
	got := make(chan []byte, 2)
	done := make(chan error, 1)
	go func() {
		done <- readFrames(r, func(b []byte) { got <- bytes.Clone(b) }, func() {}, func() {})
	}()
	require.Equal(t, small, <-got)
	require.Equal(t, large, <-got)

	p.inject(large)
	buffer := make([]byte, 65535)
	n, from, err := wireguard.ReadFromUDPAddrPort(buffer)
	require.NoError(t, err)
	require.Equal(t, large, buffer[:n])
	require.Equal(t, p.endpoint(), from)

	require.NoError(t, p.close())
	require.ErrorIs(t, <-done, io.EOF)
}

func TestAFullQueueLosesTheOldest(t *testing.T) {
	p := &proxy{queue: make(chan []byte, relayQueue)}
	for i := range 3 * relayQueue {
		p.enqueue([]byte{byte(i), byte(i >> 8)})
	}
	require.Len(t, p.queue, relayQueue)
	first := <-p.queue
	require.Equal(t, 2*relayQueue, int(first[0])+int(first[1])<<8)
}

func TestAMeshThatRefusesIsKnownNotToWork(t *testing.T) {
	c := &pipeCarrier{err: errors.New("refused"), reads: make(chan *io.PipeReader, 1)}
	p, wireguard := testProxy(t, c)
	require.True(t, p.works(time.Now()))
	_, err := wireguard.WriteToUDPAddrPort([]byte("x"), p.endpoint())
	require.NoError(t, err)
	require.Eventually(t, func() bool { return !p.works(time.Now()) }, 10*time.Second, 5*time.Millisecond)
	require.True(t, p.works(time.Now().Add(relayTimeout+time.Second)), "and asked again")
}

func FuzzReadFrames(f *testing.F) {
	f.Add(append(frame(framePacket, []byte("abc")), frame(frameRound, nil)...))
	f.Add(frame(frameAnew, nil))
	f.Add([]byte{0, 255, 255})
	f.Add([]byte{9, 0, 0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		total := 0
		err := readFrames(bytes.NewReader(raw), func(b []byte) { total += len(b) + frameHeader }, func() { total += frameHeader }, func() { total += frameHeader })
		require.Error(t, err)
		require.LessOrEqual(t, total, len(raw))
	})
}
