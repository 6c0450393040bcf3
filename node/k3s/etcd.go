package k3s

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"time"
)

// EtcdMember is a member of the cluster's etcd, as one of its servers lists it.
type EtcdMember struct {
	// ID names the member for good: a node that is removed and joins again is
	// another one.
	ID      uint64
	Name    string // empty until it has started
	Host    string // of its first peer URL
	Learner bool
	// Reachable: it answered this server within the patience, with a leader.
	Reachable bool

	clients []string
}

// Hex is the ID as etcd itself prints it.
func (m EtcdMember) Hex() string { return strconv.FormatUint(m.ID, 16) }

const (
	etcdTLS     = dataDir + "/server/tls/etcd/"
	etcdLocal   = "https://127.0.0.1:2379"
	etcdTimeout = 3 * time.Second
	// maxEtcdMembers bounds what is taken of a list, and maxEtcdAnswer an answer in
	// bytes.
	maxEtcdMembers = 32
	maxEtcdAnswer  = 1 << 20
)

// ErrNoEtcd says that this machine's server has no etcd of its own.
var ErrNoEtcd = errors.New("no etcd on this machine")

// Cluster is what a server can do to the cluster that it is part of. The zero
// value is this machine's. Its methods may be called at the same time.
type Cluster struct {
	root string

	mu sync.Mutex
	// etcd is kept between calls: a handshake costs more than all that is said.
	etcd *etcdClient
}

// Members lists the members of the etcd of this machine's server and asks each
// whether it is there. It does not need a majority: it is what this server sees.
// The error is ErrNoEtcd where the server has none of its own.
func (c *Cluster) Members(ctx context.Context) ([]EtcdMember, error) {
	client, err := c.open()
	if err != nil {
		return nil, err
	}
	members, err := client.list(ctx)
	if err != nil {
		c.Close() // another server may be there with other certificates
		return nil, err
	}
	for i, m := range members {
		members[i].Reachable = client.reaches(ctx, m)
	}
	return members, nil
}

// Remove takes a member out of etcd, by ID, and returns once the list of this
// machine's server holds it no more. One that is not there is no error.
func (c *Cluster) Remove(ctx context.Context, id uint64) error {
	client, err := c.open()
	if err != nil {
		return err
	}
	return client.remove(ctx, id)
}

// Forget takes a node's Node object and its node password out of the cluster,
// through this server's own API, so that a node of this name registers anew. What
// is not there is no error. The Node is not forced away: finalizers have their
// say. It looks first, asks still whether what it found may go, and then deletes
// that and nothing newer of the same name, however long it took.
func (c *Cluster) Forget(ctx context.Context, name string, still func(context.Context) error) error {
	return forgetNode(ctx, c.root, name, still)
}

// Close gives back what was kept between calls.
func (c *Cluster) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.etcd != nil {
		c.etcd.http.CloseIdleConnections()
		c.etcd = nil
	}
}

func (c *Cluster) open() (*etcdClient, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.etcd == nil {
		client, err := openEtcd(c.root)
		if err != nil {
			return nil, err
		}
		c.etcd = client
	}
	return c.etcd, nil
}

// etcdClient speaks the two services of etcd that are needed, gRPC over HTTP/2
// with nothing but net/http: the real client is a hundred packages.
type etcdClient struct {
	http  *http.Client
	local string
}

func openEtcd(root string) (*etcdClient, error) {
	cert, err := tls.LoadX509KeyPair(root+etcdTLS+"client.crt", root+etcdTLS+"client.key")
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNoEtcd
	}
	if err != nil {
		return nil, fmt.Errorf("open etcd: %w", err)
	}
	ca, err := os.ReadFile(root + etcdTLS + "server-ca.crt")
	if err != nil {
		return nil, fmt.Errorf("open etcd: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, errors.New("open etcd: its CA holds no certificate")
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	return &etcdClient{local: etcdLocal, http: &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool, MinVersion: tls.VersionTLS12},
		Protocols:       protocols,
		DialContext:     (&net.Dialer{Timeout: etcdTimeout}).DialContext,
	}}}, nil
}

func (c *etcdClient) list(ctx context.Context) ([]EtcdMember, error) {
	// linearizable (field 1) stays false: what this member knows by itself.
	answer, err := c.call(ctx, c.local, "/etcdserverpb.Cluster/MemberList", nil)
	if err != nil {
		return nil, fmt.Errorf("list etcd members: %w", err)
	}
	members, err := decodeMembers(answer)
	if err != nil {
		return nil, fmt.Errorf("list etcd members: %w", err)
	}
	return members, nil
}

// reaches tells whether a member answers and knows a leader.
func (c *etcdClient) reaches(ctx context.Context, m EtcdMember) bool {
	for _, base := range m.clients {
		if u, err := url.Parse(base); err != nil || u.Scheme != "https" {
			continue
		}
		answer, err := c.call(ctx, base, "/etcdserverpb.Maintenance/Status", nil)
		if err == nil && hasLeader(answer) {
			return true
		}
	}
	return false
}

func (c *etcdClient) remove(ctx context.Context, id uint64) error {
	listed := func() (bool, error) {
		members, err := c.list(ctx)
		for _, m := range members {
			if m.ID == id {
				return true, nil
			}
		}
		return false, err
	}
	there, err := listed()
	if err != nil || !there {
		return err
	}
	if _, err := c.call(ctx, c.local, "/etcdserverpb.Cluster/MemberRemove", binary.AppendUvarint([]byte{1 << 3}, id)); err != nil {
		return fmt.Errorf("remove etcd member %x: %w", id, err)
	}
	if there, err = listed(); err == nil && there {
		err = fmt.Errorf("remove etcd member %x: it is still listed", id)
	}
	return err
}

// call is one unary gRPC.
func (c *etcdClient) call(ctx context.Context, base, method string, message []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, base+method, bytes.NewReader(append(frame, message...)))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/grpc")
	request.Header.Set("TE", "trailers")
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxEtcdAnswer))
	if err != nil {
		return nil, err
	}
	status := response.Trailer.Get("Grpc-Status")
	reason := response.Trailer.Get("Grpc-Message")
	if status == "" { // an error without a message
		status, reason = response.Header.Get("Grpc-Status"), response.Header.Get("Grpc-Message")
	}
	if response.StatusCode != http.StatusOK || status != "0" {
		return nil, fmt.Errorf("%s: %s, gRPC status %q %s", method, response.Status, status, reason)
	}
	if len(body) < 5 || body[0] != 0 || int(binary.BigEndian.Uint32(body[1:5])) != len(body)-5 {
		return nil, fmt.Errorf("%s: an answer of %d bytes that is no message", method, len(body))
	}
	return body[5:], nil
}
