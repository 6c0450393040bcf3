package node

import (
	"os"
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

func TestS16WhatEtcdSaidLastCountsOnlyWhileItSaysNothing(t *testing.T) {
	hosts := map[roles.NodeID][]string{"a": {"10.1.0.1"}, "b": {"10.1.0.2"}, "c": {"10.1.0.3"}}
	fact := func(id, host string, learner, reachable bool) EtcdFacts {
		return EtcdFacts{ID: id, Host: host, Learner: learner, Reachable: reachable}
	}
	last := []EtcdFacts{fact("a1", "10.1.0.1", false, false), fact("b1", "10.1.0.2", false, false), fact("c1", "10.1.0.3", true, false)}
	all := map[roles.NodeID]roles.Health{"a": {Alive: true}, "b": {}, "c": {Alive: true}}
	etcdHealth([]etcdWord{{"a", last}, {"c", nil}}, hosts, all)
	require.Equal(t, "b1", all["b"].EtcdMember)
	require.False(t, all["b"].EtcdDead, "who says nothing calls nobody dead")
	require.Equal(t, 2, all["a"].EtcdVoters)
	require.False(t, all["a"].EtcdServing || all["a"].EtcdLearner)
	require.True(t, all["c"].EtcdLearner)
	require.Zero(t, all["c"].EtcdVoters)

	now := []EtcdFacts{fact("a1", "10.1.0.1", false, true), fact("c2", "10.1.0.3", false, true)}
	all = map[roles.NodeID]roles.Health{"a": {Alive: true}, "b": {Alive: true}, "c": {Alive: true}}
	etcdHealth([]etcdWord{{"a", now}, {"b", last}, {"c", now}}, hosts, all)
	require.Empty(t, all["b"].EtcdMember, "others say that it is none any more")
	require.Equal(t, "c2", all["c"].EtcdMember)
}

func TestS16ANodeGoesOnAloneOnlyWithoutALeaderAndAsOneOfTwo(t *testing.T) {
	a, b := EtcdFacts{ID: "a1", Host: "10.1.0.1"}, EtcdFacts{ID: "b1", Host: "10.1.0.2"}
	learner, third := EtcdFacts{ID: "c1", Host: "10.1.0.3", Learner: true}, EtcdFacts{ID: "c1", Host: "10.1.0.3"}
	require.True(t, allOfEtcd([]EtcdFacts{a, b}, "b1"))
	require.True(t, allOfEtcd([]EtcdFacts{a, b, learner}, "b1"))
	require.False(t, allOfEtcd([]EtcdFacts{a, b, third}, "b1"))
	require.False(t, allOfEtcd([]EtcdFacts{a, third}, "b1"))
	require.False(t, allOfEtcd([]EtcdFacts{a}, "b1"))
	require.False(t, allOfEtcd(nil, "b1"))
	a.Reachable = true
	require.False(t, allOfEtcd([]EtcdFacts{a, b}, "b1"), "it has a leader")
}

func TestTheMembersOfEtcdAreKeptForTheDataThatTheyHad(t *testing.T) {
	path := t.TempDir() + "/" + etcdFile
	server := true
	of := epochNote{Epoch: 1, Server: &server}
	require.Empty(t, readEtcd(path, of))
	members := []EtcdFacts{{ID: "a1", Host: "10.1.0.1"}, {ID: "b1", Host: "10.1.0.2", Learner: true}}
	require.NoError(t, keepEtcd(path, etcdNote{Of: of, Members: members}))
	require.Equal(t, members, readEtcd(path, of))
	later := of
	later.Tenure = 1
	require.Empty(t, readEtcd(path, later), "of data that was wiped")
	require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
	require.Empty(t, readEtcd(path, of))
	require.NoError(t, keepEtcd(path, etcdNote{Of: of, Members: members}))
	require.Equal(t, members, readEtcd(path, of))
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
