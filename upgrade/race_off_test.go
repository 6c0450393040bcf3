//go:build !race

package upgrade

// underRace says whether the race detector watches.
const underRace = false
