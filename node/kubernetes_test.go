package node

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/p2p/ledger"
)

func TestOnlyACopyThatLacksNothingConfirmsANode(t *testing.T) { // S12
	for name, test := range map[string]struct {
		status ledger.Status
		want   bool
	}{
		"a follower with everything":            {ledger.Status{Quorum: true, Following: "m"}, true},
		"a voter with everything":               {ledger.Status{Quorum: true, Voter: true, Following: "m"}, true},
		"a voter that only heard a heartbeat":   {ledger.Status{Quorum: true, Voter: true}, false},
		"a copy that lacks something":           {ledger.Status{Quorum: true, Voter: true, Following: "m", Behind: 1}, false},
		"a server that knows of no coordinator": {ledger.Status{Following: "m"}, false},
		"nobody":                                {ledger.Status{}, false},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, test.want, confirms(test.status)) })
	}
}
