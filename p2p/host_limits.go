package p2p

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/x/rate"
)

// The resource manager's limits, for a full mesh of at most maxMembers. They are
// backstops: admission keeps strangers to maxStrangers, and what costs the site more than
// memory has limits of its own, for each member too.
const (
	maxMembers = 1000

	connsPerPeer   = 8       // QUIC and TCP from both ends, and a reconnect at the same time
	streamsPerPeer = 512     // gossip, Raft, facts and enrolment use a dozen
	connsPerIP     = 256     // a branch office behind one address
	memory         = 1 << 30 // bytes; what streams may buffer on a bad day
	newConnsPerIP  = 10      // per second, sustained
	newConnsBurst  = 256     // a branch office after a power cut
)

func newResourceManager() (network.ResourceManager, error) {
	limits := rcmgr.PartialLimitConfig{
		System: rcmgr.ResourceLimits{
			Conns:           4 * maxMembers,
			ConnsInbound:    2 * maxMembers,
			ConnsOutbound:   2 * maxMembers,
			Streams:         64 * maxMembers,
			StreamsInbound:  32 * maxMembers,
			StreamsOutbound: 32 * maxMembers,
			FD:              2 * maxMembers,
			Memory:          memory,
		},
		// Connections whose TLS handshake has not ended.
		Transient: rcmgr.ResourceLimits{
			Conns:        512,
			ConnsInbound: 256,
			FD:           256,
			Memory:       64 << 20,
		},
		PeerDefault: rcmgr.ResourceLimits{
			Conns:   connsPerPeer,
			Streams: streamsPerPeer,
		},
	}.Build(rcmgr.InfiniteLimits)
	manager, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits),
		rcmgr.WithMetricsDisabled(),
		rcmgr.WithLimitPerSubnet(
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: connsPerIP}},
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 64, ConnCount: connsPerIP}},
		),
		rcmgr.WithConnRateLimiters(&rate.Limiter{
			NetworkPrefixLimits: []rate.PrefixLimit{
				{Prefix: netip.MustParsePrefix("127.0.0.0/8")}, // no limit
				{Prefix: netip.MustParsePrefix("::1/128")},
			},
			SubnetRateLimiter: rate.SubnetLimiter{
				IPv4SubnetLimits: []rate.SubnetLimit{{PrefixLength: 32, Limit: rate.Limit{RPS: newConnsPerIP, Burst: newConnsBurst}}},
				IPv6SubnetLimits: []rate.SubnetLimit{{PrefixLength: 64, Limit: rate.Limit{RPS: newConnsPerIP, Burst: newConnsBurst}}},
				GracePeriod:      time.Minute,
			},
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("resource limits: %w", err)
	}
	return manager, nil
}
