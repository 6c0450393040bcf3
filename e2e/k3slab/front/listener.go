// Package front lets two servers share one port, one after the other: a server's
// supervisor must answer on 6443 while the API server that will own the port is
// still being built.
package front

import (
	"net"
	"sync"
)

// Listener accepts on one socket and gives each connection to Early until
// HandOver, and to whoever calls its own Accept from then on. Connections that
// come between HandOver and the first Accept wait.
type Listener struct {
	net.Listener
	early *earlyListener
	late  chan net.Conn

	mu   sync.Mutex
	over bool

	closing sync.Once
	closed  chan struct{}
	pump    sync.WaitGroup
}

// New starts accepting on l, which the Listener closes.
func New(l net.Listener) *Listener {
	f := &Listener{
		Listener: l,
		late:     make(chan net.Conn),
		closed:   make(chan struct{}),
	}
	f.early = &earlyListener{front: f, conns: make(chan net.Conn), closed: make(chan struct{})}
	f.pump.Go(f.accept)
	return f
}

// Early is the listener of the server that goes first. Closing it leaves the
// socket open.
func (f *Listener) Early() net.Listener { return f.early }

// HandOver ends the first server's turn. It keeps the connections it has.
func (f *Listener) HandOver() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
}

// Accept returns the connections of the second server.
func (f *Listener) Accept() (net.Conn, error) { return receive(f.late, f.closed) }

// Close closes the socket and waits for the goroutine that accepts on it.
func (f *Listener) Close() error {
	var err error
	f.closing.Do(func() {
		close(f.closed)
		err = f.Listener.Close()
	})
	f.pump.Wait()
	return err
}

func (f *Listener) accept() {
	for {
		conn, err := f.Listener.Accept()
		if err != nil {
			f.closing.Do(func() { close(f.closed) })
			return
		}
		f.mu.Lock()
		to, gone := f.early.conns, f.early.closed
		if f.over {
			to, gone = f.late, nil
		}
		f.mu.Unlock()
		select {
		case to <- conn:
		case <-gone:
			conn.Close()
		case <-f.closed:
			conn.Close()
			return
		}
	}
}

type earlyListener struct {
	front   *Listener
	conns   chan net.Conn
	closing sync.Once
	closed  chan struct{}
}

func (e *earlyListener) Accept() (net.Conn, error) {
	select {
	case <-e.front.closed:
		return nil, net.ErrClosed
	default:
	}
	select {
	case conn := <-e.conns:
		return conn, nil
	case <-e.closed:
	case <-e.front.closed:
	}
	return nil, net.ErrClosed
}

func (e *earlyListener) Close() error {
	e.closing.Do(func() { close(e.closed) })
	return nil
}

func (e *earlyListener) Addr() net.Addr { return e.front.Addr() }

func receive(conns <-chan net.Conn, closed <-chan struct{}) (net.Conn, error) {
	select {
	case conn := <-conns:
		return conn, nil
	case <-closed:
		return nil, net.ErrClosed
	}
}
