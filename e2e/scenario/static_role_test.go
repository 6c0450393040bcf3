package scenario

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStaticRoleIsObeyed(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"worker", "master"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			config := newConfig(t)
			config.NoK3s, config.MinimumNodes = true, 3
			static := config
			static.Role = role
			s := site(t, 3, config, nodeConfig(t, "n2", static))
			s.waitReady(formTime)
			roles := s.byRole()
			require.Len(t, roles["master"], 1)
			require.Len(t, roles["worker"], 2)
			require.Contains(t, roles[role], "n2")
			s.requireOneSite(3)
		})
	}
}
