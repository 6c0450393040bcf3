package node

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/node/k3s"
	"github.com/muster-edge/muster/roles"
)

func TestS13EtcdCallsAMemberDeadOnlyWhenEveryOtherLiveMasterDoes(t *testing.T) {
	hosts := map[roles.NodeID][]string{"a": {"10.1.0.1"}, "b": {"10.1.0.2"}, "c": {"10.1.0.3"}, "w": {"10.1.0.4"}}
	see := func(a, b, c bool) []EtcdFacts {
		return []EtcdFacts{{ID: "a1", Host: "10.1.0.1", Reachable: a}, {ID: "b1", Host: "10.1.0.2", Reachable: b}, {ID: "c1", Host: "10.1.0.3", Reachable: c}}
	}
	look := func(words ...etcdWord) map[roles.NodeID]roles.Health {
		all := map[roles.NodeID]roles.Health{"a": {Alive: true}, "b": {Alive: true}, "c": {}, "w": {Alive: true}}
		etcdHealth(words, hosts, all)
		return all
	}
	both := look(etcdWord{"a", see(true, true, false)}, etcdWord{"b", see(true, true, false)})
	require.True(t, both["c"].EtcdDead)
	require.Equal(t, "c1", both["c"].EtcdMember)
	require.True(t, both["a"].EtcdServing && both["b"].EtcdServing)
	require.False(t, both["a"].EtcdDead || both["w"].EtcdDead)
	require.Empty(t, both["w"].EtcdMember)

	require.False(t, look(etcdWord{"a", see(true, true, false)}, etcdWord{"b", see(true, true, true)})["c"].EtcdDead, "b still reaches it")
	require.False(t, look(etcdWord{"a", see(true, true, false)}, etcdWord{"b", nil})["c"].EtcdDead, "b has not spoken")
	require.False(t, look()["c"].EtcdDead, "nobody has spoken")
	require.False(t, look(etcdWord{"c", see(true, true, false)})["c"].EtcdDead, "its own word does not count")
}

func TestEtcdFactsAreInOrderAndBounded(t *testing.T) {
	var members []k3s.EtcdMember
	for i := range 40 {
		members = append(members, k3s.EtcdMember{ID: uint64(100 - i), Host: "10.1.0.1"})
	}
	facts := etcdFacts(members)
	require.Len(t, facts, maxEtcdFacts)
	require.IsIncreasing(t, []string{facts[0].ID, facts[1].ID, facts[2].ID})
	bounded := Facts{Kubernetes: KubernetesFacts{Etcd: append(facts, facts...)}}.bounded()
	require.Len(t, bounded.Kubernetes.Etcd, maxEtcdFacts)
	require.True(t, sameHost("fd00::1", "fd00:0::1"))
	require.False(t, sameHost("n1", "n2"))
}
