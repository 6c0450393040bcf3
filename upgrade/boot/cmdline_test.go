package boot

import (
	"path"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCommandLines(t *testing.T) {
	const image = " cos-img/filename=/cOS/active.img"
	for name, test := range map[string]struct {
		line string
		want CommandLine
		err  string
	}{
		"ours": {
			line: "BOOT_IMAGE=(loop0)/boot/vmlinuz root=LABEL=COS_STATE muster.fs=AB-1" + image + " muster.slot=active muster.image=ab12 console=ttyS0 panic=5\n",
			want: CommandLine{Label: "COS_STATE", FS: "ab-1", File: "/cOS/active.img", Slot: "active", Image: "ab12"},
		},
		"reset": {
			line: "root=LABEL=COS_RECOVERY cos-img/filename=/cOS/recovery.img muster.slot=recovery muster.reset",
			want: CommandLine{Label: "COS_RECOVERY", File: "/cOS/recovery.img", Slot: "recovery", Reset: true},
		},
		"the last of two counts, quotes hold": {
			line: `root=/dev/sda root="LABEL=COS_STATE"` + image + ` quiet x="a root=LABEL=NO b"`,
			want: CommandLine{Label: "COS_STATE", File: "/cOS/active.img", Slot: "active", Quiet: true},
		},
		"what follows -- is for init":  {line: "root=LABEL=A" + image + " -- root=LABEL=B", want: CommandLine{Label: "A", File: "/cOS/active.img", Slot: "active"}},
		"init":                         {line: "root=LABEL=A" + image + " init=/bin/sh", want: CommandLine{Label: "A", File: "/cOS/active.img", Slot: "active", Init: "/bin/sh"}},
		"empty":                        {line: "", err: `root="" is not LABEL=NAME`},
		"a device as root":             {line: "root=/dev/sda1" + image, err: "is not LABEL=NAME"},
		"a label that cannot be":       {line: "root=LABEL=ABCDEFGHIJKLMNOPQ" + image, err: "is not LABEL=NAME"},
		"no image":                     {line: "root=LABEL=A", err: "no cos-img/filename="},
		"an image outside":             {line: "root=LABEL=A cos-img/filename=/../x.img", err: "not an absolute path"},
		"a relative image":             {line: "root=LABEL=A cos-img/filename=x.img", err: "not an absolute path"},
		"a slot that there is not":     {line: "root=LABEL=A" + image + " muster.slot=third", err: "none of active, passive, recovery"},
		"a name that says nothing":     {line: "root=LABEL=A cos-img/filename=/cOS/x.img", err: "none of active, passive, recovery"},
		"an init that is not absolute": {line: "root=LABEL=A" + image + " init=sh", err: "init="},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseCommandLine(test.line)
			if test.err != "" {
				require.ErrorIs(t, err, ErrCommandLine)
				require.ErrorContains(t, err, test.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.want, got)
		})
	}
}

func FuzzParseCommandLine(f *testing.F) {
	f.Add(`root=LABEL=COS_STATE cos-img/filename=/cOS/active.img a="b c" -- d`)
	f.Fuzz(func(t *testing.T, line string) {
		c, err := ParseCommandLine(line)
		if err != nil {
			require.ErrorIs(t, err, ErrCommandLine)
			return
		}
		require.NotEmpty(t, c.Label)
		require.Equal(t, path.Clean("/"+c.File), c.File)
		require.Contains(t, []string{SlotActive, SlotPassive, SlotRecovery}, c.Slot)
	})
}
