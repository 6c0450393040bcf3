package roles

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestNamesComeFromHostnames(t *testing.T) {
	const id = "12D3KooWQx7Kp2RtUvAbC1"
	for hostname, name := range map[string]string{
		"box":                   "box",
		"Box":                   "box",
		"box.example.com":       "box",
		"my_box 1":              "my-box-1",
		"-box-":                 "box",
		"bøx":                   "b-x",
		"":                      "muster-rtuvabc1",
		"localhost":             "muster-rtuvabc1",
		"localhost.localdomain": "muster-rtuvabc1",
		"...":                   "muster-rtuvabc1",
		"_":                     "muster-rtuvabc1",
		strings.Repeat("x", 70): strings.Repeat("x", 63),
	} {
		require.Equal(t, name, uniqueName(hostname, id, func(string) bool { return false }), "hostname %q", hostname)
	}
}

func TestATakenNameIsToldApartByTheID(t *testing.T) {
	taken := map[string]bool{"kairos": true}
	name := func(id NodeID) string {
		n := uniqueName("kairos", id, func(s string) bool { return taken[s] })
		taken[n] = true
		return n
	}
	require.Equal(t, "kairos-vabc1", name("12D3KooWQx7Kp2RtUvAbC1"))
	require.Equal(t, "kairos-p2rxvabc1", name("12D3KooWQx7P2RxvABC1"), "more of the ID where five characters are not enough")
	require.Equal(t, "kairos-x", name("x"))
	require.Equal(t, "kairos-2", name("X"))
	require.Equal(t, "kairos-3", name("/"))
}

func TestNamesAreUniqueLabels(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		taken := map[string]bool{}
		ids := rapid.SliceOfNDistinct(rapid.StringN(1, 70, -1), 1, 20, rapid.ID).Draw(t, "ids")
		for _, id := range ids {
			hostname := rapid.OneOf(rapid.Just("kairos"), rapid.Just(strings.Repeat("x", 64)), rapid.String()).Draw(t, "hostname")
			name := uniqueName(hostname, NodeID(id), func(s string) bool { return taken[s] })
			require.Regexp(t, `^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`, name)
			require.False(t, taken[name])
			taken[name] = true
		}
	})
}
