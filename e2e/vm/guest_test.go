package vm

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// agentOver runs the commands of a guest as the agent's script does, in a shell of this machine.
func agentOver(t *testing.T, conn net.Conn, noise string) {
	t.Helper()
	body := agentScript[strings.Index(agentScript, "\twhile read"):strings.Index(agentScript, "\texec 3>&-")]
	file, err := conn.(*net.UnixConn).File()
	require.NoError(t, err)
	_, err = conn.Write([]byte(noise))
	require.NoError(t, err)
	cmd := exec.Command("sh", "-c", "work="+t.TempDir()+"\n"+body)
	cmd.ExtraFiles = []*os.File{file}
	require.NoError(t, cmd.Start())
	require.NoError(t, file.Close())
	require.NoError(t, conn.Close())
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it waits for more
		_ = cmd.Wait()
	})
}

func pair(t *testing.T) (here, there net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", t.TempDir()+"/s")
	require.NoError(t, err)
	defer l.Close()
	there, err = net.Dial("unix", l.Addr().String())
	require.NoError(t, err)
	here, err = l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _ = here.Close() })
	return here, there
}

func TestACommandsOutputAndExitCodeComeBack(t *testing.T) {
	here, there := pair(t)
	g := newGuest(here)
	agentOver(t, there, "half an answer of the agent befo\n17 0 b2xk\n")
	out, err := g.run(t.Context(), "echo 'a  b'; echo err >&2\nprintf 'no newline'")
	require.NoError(t, err)
	require.Equal(t, "a  b\nerr\nno newline", out)

	out, err = g.run(t.Context(), "echo said; exit 7")
	var exit *ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, &ExitError{Script: "echo said; exit 7", Code: 7, Output: "said\n"}, exit)
	require.Equal(t, "said\n", out)

	out, err = g.run(t.Context(), "true")
	require.NoError(t, err)
	require.Empty(t, out)

	out, err = g.run(t.Context(), "head -c 200000 /dev/zero | tr '\\0' x")
	require.NoError(t, err)
	require.Len(t, out, 200000)
}

func TestAnAnswerThatNobodyWaitedForIsNotTheNextOnes(t *testing.T) {
	here, there := pair(t)
	g := newGuest(here)
	requests := bufio.NewReader(there)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, _ = requests.ReadString('\n')
		cancel()
	}()
	_, err := g.run(ctx, "slow")
	require.ErrorIs(t, err, context.Canceled)
	go func() {
		_, _ = requests.ReadString('\n')
		_, _ = fmt.Fprint(there, "1 0 c2xvdw==\n2 0 ZmFzdA==\n")
	}()
	out, err := g.run(t.Context(), "fast")
	require.NoError(t, err)
	require.Equal(t, "fast", out)
}

func TestACommandEndsWithTheMachine(t *testing.T) {
	here, there := pair(t)
	g := newGuest(here)
	go func() {
		_, _ = bufio.NewReader(there).ReadString('\n')
		_ = there.Close()
	}()
	_, err := g.run(t.Context(), "reboot")
	require.ErrorIs(t, err, ErrOff)
}

func FuzzParseResult(f *testing.F) {
	f.Add("1 0 \n")
	f.Add("12 127 bm90IGZvdW5k\n")
	f.Add("-1 x y z")
	f.Fuzz(func(t *testing.T, line string) {
		r, err := parseResult(line)
		if err != nil {
			require.Zero(t, r)
		}
	})
}
