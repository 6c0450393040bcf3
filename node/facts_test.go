package node

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/p2p"
	"github.com/muster-edge/muster/roles"
)

func TestFactsOfAnyNodeFitIntoGossip(t *testing.T) {
	f := Facts{Hostname: strings.Repeat("n", 63), Reason: strings.Repeat("\u00fc", 10_000)}
	for i := range 1000 {
		f.LANs = append(f.LANs, netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, byte(i >> 8), byte(i), 15: 1}), 64))
		f.LANs = append(f.LANs, f.LANs[0])
	}
	for i := range maxCandidates {
		f.VPN.Candidates = append(f.VPN.Candidates, netip.AddrPortFrom(netip.AddrFrom16([16]byte{0xfd, byte(i), 15: 1}), 51820))
	}
	body, err := f.bounded().encode()
	require.NoError(t, err)
	require.Less(t, len(body), p2p.MaxFactSize)
	read, err := decodeFacts(p2p.Fact{Body: body})
	require.NoError(t, err)
	require.Len(t, read.LANs, maxLANs)
	require.Equal(t, strings.Repeat("\u00fc", maxReason/2), read.Reason)
}

func TestFactsOfANewerVersionAreRead(t *testing.T) {
	f, err := decodeFacts(p2p.Fact{Body: []byte(`{"hostname":"n1","feature_level":9,"sensors":{"fan":3},"vpn":{"obfuscation":"x"}}`)})
	require.NoError(t, err)
	require.Equal(t, "n1", f.Hostname)
	require.Equal(t, 9, f.FeatureLevel)
}

func TestFactsThatCannotBeAreNoFacts(t *testing.T) {
	for name, body := range map[string]string{
		"no JSON":       `hostname: n1`,
		"wrong type":    `{"hostname":7}`,
		"long hostname": `{"hostname":"` + strings.Repeat("n", maxHostname+1) + `"}`,
		"bad endpoint":  `{"vpn":{"candidates":["nowhere"]}}`,
		"bad policy":    `{"policy":{"replace_after":"soon"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := decodeFacts(p2p.Fact{Body: []byte(body)})
			require.Error(t, err)
		})
	}
}

func TestEndpointsOfAPeerAreBounded(t *testing.T) {
	endpoints := strings.TrimSuffix(strings.Repeat(`"192.0.2.1:1",`, 100), ",")
	f, err := decodeFacts(p2p.Fact{Body: []byte(`{"vpn":{"candidates":[` + endpoints + `]}}`)})
	require.NoError(t, err)
	require.Len(t, f.VPN.Candidates, maxCandidates)
}

func TestAZeroWireGuardKeyIsNone(t *testing.T) {
	for _, text := range []string{"", "x", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="} {
		_, ok := VPNFacts{PublicKey: text}.publicKey()
		require.False(t, ok, text)
	}
}

func FuzzFacts(f *testing.F) {
	body, err := Facts{Hostname: "n1", Phase: PhaseRunning, Policy: roles.DefaultPolicy()}.encode()
	require.NoError(f, err)
	f.Add(body)
	f.Add([]byte(`{"lans":["10.0.0.0/8"],"vpn":{"candidates":["[::1]:1"]}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		facts, err := decodeFacts(p2p.Fact{Body: body})
		if err != nil {
			return
		}
		require.LessOrEqual(t, len(facts.VPN.Candidates), maxCandidates)
		again, err := facts.encode()
		require.NoError(t, err)
		_, err = decodeFacts(p2p.Fact{Body: again})
		require.NoError(t, err, "what was read can be said again")
	})
}
