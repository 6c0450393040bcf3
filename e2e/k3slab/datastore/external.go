package datastore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
)

// ErrOtherToken means that the datastore belongs to a cluster with another token.
var ErrOtherToken = errors.New("bootstrap data already found and encrypted with different token")

// External is an etcd that is not this process's: --datastore-endpoint.
type External struct {
	endpoints                 []string
	caFile, certFile, keyFile string
}

// ParseExternal reads an endpoint as K3s takes it for etcd: URLs separated by
// commas. Errors show none of it.
func ParseExternal(endpoint, caFile, certFile, keyFile string) (*External, error) {
	e := &External{caFile: caFile, certFile: certFile, keyFile: keyFile}
	for part := range strings.SplitSeq(endpoint, ",") {
		u, err := url.Parse(strings.TrimSpace(part))
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, errors.New("--datastore-endpoint: this stand-in knows etcd alone: http or https URLs, separated by commas")
		}
		e.endpoints = append(e.endpoints, u.Scheme+"://"+u.Host)
	}
	return e, nil
}

// APIServerArgs are kube-apiserver's flags for it.
func (e *External) APIServerArgs() []string {
	args := []string{"--etcd-servers=" + strings.Join(e.endpoints, ",")}
	for flag, file := range map[string]string{"cafile": e.caFile, "certfile": e.certFile, "keyfile": e.keyFile} {
		if file != "" {
			args = append(args, "--etcd-"+flag+"="+file)
		}
	}
	return args
}

const bootstrapPrefix = "/bootstrap/"

// Identity returns the cluster's identity in the datastore. Where there is none,
// offer becomes it unless that is nil; then nil is returned.
func (e *External) Identity(ctx context.Context, password string, offer map[string][]byte) (map[string][]byte, error) {
	client, err := e.dial()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	sum := sha256.Sum256([]byte(password))
	key := bootstrapPrefix + hex.EncodeToString(sum[:6])
	if offer != nil {
		value, err := json.Marshal(offer)
		if err != nil {
			return nil, err
		}
		// Somebody else's is read below.
		_, err = client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).Then(clientv3.OpPut(key, string(value))).Commit()
		if err != nil {
			return nil, fmt.Errorf("write the bootstrap data: %w", err)
		}
	}
	found, err := client.Get(ctx, bootstrapPrefix, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("read the bootstrap data: %w", err)
	}
	if len(found.Kvs) == 0 {
		return nil, nil
	}
	for _, kv := range found.Kvs {
		if string(kv.Key) == key {
			files := map[string][]byte{}
			if err := json.Unmarshal(kv.Value, &files); err != nil {
				return nil, fmt.Errorf("read the bootstrap data: %w", err)
			}
			return files, nil
		}
	}
	return nil, ErrOtherToken
}

func (e *External) dial() (*clientv3.Client, error) {
	config := clientv3.Config{
		Endpoints: e.endpoints, DialTimeout: dialTimeout,
		DialOptions: []grpc.DialOption{grpc.WithBlock()}, //nolint:staticcheck // the etcd client still dials this way
	}
	if e.caFile != "" || e.certFile != "" {
		tls, err := transport.TLSInfo{TrustedCAFile: e.caFile, CertFile: e.certFile, KeyFile: e.keyFile}.ClientConfig()
		if err != nil {
			return nil, fmt.Errorf("load the datastore's certificates: %w", err)
		}
		config.TLS = tls
	}
	client, err := clientv3.New(config)
	if err != nil {
		return nil, fmt.Errorf("dial the datastore: %w", err)
	}
	return client, nil
}

// RunAlone runs an etcd of one member without TLS until ctx ends, for tests that
// need a datastore outside of K3s.
func RunAlone(ctx context.Context, dir, clientURL string) error {
	client, err := url.Parse(clientURL)
	if err != nil {
		return fmt.Errorf("client URL: %w", err)
	}
	peer, err := url.Parse("http://127.0.0.1:0")
	if err != nil {
		return err
	}
	c := embed.NewConfig()
	c.Name, c.Dir = "alone", dir
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	c.InitialCluster = c.Name + "=" + peer.String()
	c.LogLevel, c.LogOutputs = "warn", []string{"stderr"}
	e, err := embed.StartEtcd(c)
	if err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	defer e.Close()
	select {
	case <-ctx.Done():
		return nil
	case err := <-e.Err():
		return err
	}
}
