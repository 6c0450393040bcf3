package datastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/muster-edge/muster/e2e/k3slab/host"
	"github.com/muster-edge/muster/e2e/k3slab/supervisor"
)

const (
	dialTimeout    = 5 * time.Second
	requestTimeout = 10 * time.Second
	// joinRetry is long enough for another server's learner to be promoted: etcd
	// takes one learner at a time.
	joinRetry    = 2 * time.Second
	promoteRetry = 250 * time.Millisecond
)

// Members lists the members of the cluster.
func (e *Etcd) Members(ctx context.Context) ([]supervisor.Member, error) {
	client, err := e.dial([]string{Endpoint})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	list, err := client.MemberList(ctx)
	if err != nil {
		return nil, fmt.Errorf("list etcd members: %w", err)
	}
	var members []supervisor.Member
	for _, m := range list.Members {
		members = append(members, supervisor.Member{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, Learner: m.IsLearner})
	}
	return members, nil
}

// Remove takes another member out of the cluster by its name. One that is not
// there, and this member itself, are left alone.
func (e *Etcd) Remove(ctx context.Context, name string) error {
	if name == e.name {
		return nil
	}
	members, err := e.Members(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(members, func(m supervisor.Member) bool { return m.Name == name })
	if i < 0 {
		return nil
	}
	client, err := e.dial([]string{Endpoint})
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err := client.MemberRemove(ctx, members[i].ID); err != nil && !errors.Is(err, rpctypes.ErrMemberNotFound) {
		return fmt.Errorf("remove etcd member %s: %w", name, err)
	}
	return nil
}

// join adds this member as a learner and returns etcd's initial cluster and the
// voters' endpoints. Two servers that join at once are told "too many learner
// members" or "unhealthy cluster" and try again.
func (e *Etcd) join(ctx context.Context, config Config) (initial string, voters []string, err error) {
	for {
		var members []supervisor.Member
		if members, err = config.Join.Members(ctx); err == nil {
			if initial, voters, err = e.addLearner(ctx, members, peerURL(config.NodeIP)); err == nil {
				return initial, voters, nil
			}
		}
		if errors.Is(err, supervisor.ErrRejected) {
			return "", nil, fmt.Errorf("join the etcd cluster: %w", err)
		}
		slog.Warn("waiting to join the etcd cluster", "error", err)
		if err := host.Pause(ctx, joinRetry); err != nil {
			return "", nil, err
		}
	}
}

func (e *Etcd) addLearner(ctx context.Context, members []supervisor.Member, self string) (initial string, voters []string, err error) {
	for _, m := range members {
		if m.Name != "" && m.Name != e.name && slices.Contains(m.PeerURLs, self) {
			return "", nil, fmt.Errorf("%w: duplicate node name or IP found, please use a unique name: etcd member %s already has %s",
				supervisor.ErrRejected, m.Name, self)
		}
		if !m.Learner {
			voters = append(voters, m.ClientURLs...)
		}
	}
	client, err := e.dial(voters)
	if err != nil {
		return "", nil, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var all []*etcdserverpb.Member
	added, err := client.MemberAddAsLearner(ctx, []string{self})
	switch {
	case err == nil:
		all = added.Members
	case errors.Is(err, rpctypes.ErrPeerURLExist): // an earlier attempt of ours added it
		list, err := client.MemberList(ctx)
		if err != nil {
			return "", nil, fmt.Errorf("list etcd members: %w", err)
		}
		all = list.Members
	default:
		return "", nil, fmt.Errorf("add this etcd member: %w", err)
	}
	var entries []string
	for _, m := range all {
		name := m.Name
		if name == "" && slices.Contains(m.PeerURLs, self) {
			name = e.name
		}
		for _, u := range m.PeerURLs {
			entries = append(entries, name+"="+u)
		}
	}
	return strings.Join(entries, ","), voters, nil
}

// promote asks the voters to make this learner one of them until they do: they
// refuse while it is behind.
func (e *Etcd) promote(ctx context.Context, voters []string) error {
	client, err := e.dial(voters)
	if err != nil {
		return err
	}
	defer client.Close()
	for logged := false; ; logged = true {
		attempt, cancel := context.WithTimeout(ctx, requestTimeout)
		_, err := client.MemberPromote(attempt, uint64(e.embed.Server.MemberID()))
		cancel()
		if err == nil || errors.Is(err, rpctypes.ErrMemberNotLearner) {
			return nil
		}
		if !logged {
			slog.Info("waiting for promotion of the etcd learner", "error", err)
		}
		if err := host.Pause(ctx, promoteRetry); err != nil {
			return err
		}
	}
}

func (e *Etcd) dial(endpoints []string) (*clientv3.Client, error) {
	config, err := tlsInfo(e.tlsDir, "client", "server-ca").ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("load etcd client certificate in %s: %w", filepath.Clean(e.tlsDir), err)
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, TLS: config, DialTimeout: dialTimeout,
		// Blocking, or an endpoint that is down is only found out by a request.
		DialOptions: []grpc.DialOption{grpc.WithBlock()}, //nolint:staticcheck // the etcd client still dials this way
	})
	if err != nil {
		return nil, fmt.Errorf("dial etcd at %s: %w", strings.Join(endpoints, ", "), err)
	}
	return client, nil
}
