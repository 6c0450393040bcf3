package node

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/roles"
)

func TestAReplacementIsDoneWhenThePlaceIsGivenOnOrBegunAnew(t *testing.T) {
	asked := 2
	for _, c := range []struct {
		what   string
		change Change
		since  *int
		done   bool
	}{
		{"a worker that never was a master", Change{Do: roles.RequestReplace, Role: roles.Worker}, nil, false},
		{"one whose place was given on", Change{Do: roles.RequestReplace, Role: roles.Worker, Tenure: 1}, nil, true},
		{"a master, before anybody asks", Change{Do: roles.RequestReplace, Role: roles.MasterHA, Tenure: 2}, nil, false},
		{"a master as it was", Change{Do: roles.RequestReplace, Role: roles.MasterHA, Tenure: 2}, &asked, false},
		{"a master that begins its place anew", Change{Do: roles.RequestReplace, Role: roles.MasterHA, Tenure: 3}, &asked, true},
		{"another change", Change{Do: roles.RequestRemove, Role: roles.MasterHA, Tenure: 3}, &asked, false},
	} {
		require.Equal(t, c.done, c.change.replaced(c.since), c.what)
	}
}
