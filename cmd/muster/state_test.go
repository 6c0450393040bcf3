package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/upgrade"
)

func id(digit string) string { return strings.Repeat(digit, 64) }

func slotOf(version, digit string, good bool) upgrade.SlotState {
	return upgrade.SlotState{Version: version, Digest: "sha256:" + id(digit), Good: good}
}

func TestTheTableSaysWhatRunsWhatIsGoodAndWhatHappened(t *testing.T) {
	at := time.Date(2026, 11, 25, 3, 40, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		boot upgrade.Boot
		s    upgrade.State
		want string
	}{
		"fresh": {
			upgrade.Boot{Slot: "active", Image: id("1")},
			upgrade.State{Slots: map[string]upgrade.SlotState{"active": slotOf("v1", "1", true), "passive": slotOf("v1", "1", true), "recovery": slotOf("v1", "1", true)}},
			`Runs v1 (sha256:111111111111) from active; it proved good.

SLOT      VERSION  DIGEST               GOOD  TRIES  NOTE
active    v1       sha256:111111111111  yes   0      runs
passive   v1       sha256:111111111111  yes   0
recovery  v1       sha256:111111111111  yes   0

Last upgrade:  none since this machine was installed
`,
		},
		"upgraded, not restarted yet": {
			upgrade.Boot{Slot: "active", Image: id("1")},
			upgrade.State{
				Slots:       map[string]upgrade.SlotState{"active": slotOf("v2", "2", false), "passive": slotOf("v1", "1", true), "recovery": slotOf("v0", "0", false)},
				LastUpgrade: &upgrade.Story{Source: "oci:r/box:v2", Slot: "active", From: id("1"), To: id("2"), Version: "v2", Started: at, Outcome: upgrade.OutcomeStarted},
			},
			`Runs v1 (sha256:111111111111) from active; an upgrade moved it to passive; it proved good.

SLOT      VERSION  DIGEST               GOOD  TRIES  NOTE
active    v2       sha256:222222222222  no    0      the next boot tries it
passive   v1       sha256:111111111111  yes   0      runs
recovery  v0       sha256:000000000000  -     0

Last upgrade:  2026-11-25 03:40 UTC to v2 (sha256:222222222222) in active, from oci:r/box:v2
               written; it has not proved good yet
`,
		},
		"fell back": {
			upgrade.Boot{Slot: "passive", Image: id("1")},
			upgrade.State{
				Slots: map[string]upgrade.SlotState{"active": {Version: "v2", Digest: "sha256:" + id("2"), Tries: 2}, "passive": slotOf("v1", "1", true), "recovery": {Problem: "no such file"}},
				LastUpgrade: &upgrade.Story{
					Source: "oci:r/box:v2", Slot: "active", To: id("2"), Version: "v2", Started: at, Outcome: upgrade.OutcomeFellBack, Reason: "k3s is dead",
				},
				Quarantined:    []upgrade.Quarantined{{ID: id("2"), Model: "ACME box", Reason: "k3s is dead", Since: at}},
				FallbackReason: "active did not prove good: k3s is dead",
				Problems:       []string{"COS_PERSISTENT cannot be mounted"},
			},
			`Runs v1 (sha256:111111111111) from passive; it proved good.

SLOT      VERSION  DIGEST               GOOD  TRIES  NOTE
active    v2       sha256:222222222222  no    2      quarantined
passive   v1       sha256:111111111111  yes   0      runs
recovery  -        -                    -     0      no such file

Last upgrade:  2026-11-25 03:40 UTC to v2 (sha256:222222222222) in active, from oci:r/box:v2
               it did not prove good, and the machine fell back: k3s is dead
Fell back:     active did not prove good: k3s is dead
Quarantined:   sha256:222222222222 on ACME box since 2026-11-25: k3s is dead
` + "               `muster upgrade unquarantine sha256:222222222222 --reason TEXT` lets it be installed again\n" + `Problem:       COS_PERSISTENT cannot be mounted
`,
		},
		"on trial": {
			upgrade.Boot{Slot: "active", Image: id("2")},
			upgrade.State{Slots: map[string]upgrade.SlotState{"active": {Version: "v2", Digest: "sha256:" + id("2"), Tries: 1}, "passive": slotOf("v1", "1", true)}},
			"Runs v2 (sha256:222222222222) from active, on trial: `muster why` says what it waits for." + `

SLOT     VERSION  DIGEST               GOOD  TRIES  NOTE
active   v2       sha256:222222222222  no    1      runs
passive  v1       sha256:111111111111  yes   0

Last upgrade:  none since this machine was installed
`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			require.NoError(t, writeState(&out, c.boot, c.s))
			require.Equal(t, c.want, out.String())
		})
	}
}
