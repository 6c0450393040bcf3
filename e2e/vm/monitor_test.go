package vm

import (
	"bufio"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMonitorTellsEventsFromAnswers(t *testing.T) {
	here, there := pair(t)
	m := newMonitor(here)
	answers := []string{
		`{"QMP": {"version": {}}}` + "\n" + `{"return": {}}`,
		`{"event": "RESUME", "timestamp": {}}` + "\n" + `{"return": ""}`,
		`{"return": "Error: no disk can take a snapshot\r\n"}`,
		`{"error": {"class": "CommandNotFound", "desc": "no such command"}}`,
	}
	go func() {
		questions := bufio.NewReader(there)
		for _, a := range answers {
			_, _ = questions.ReadString('\n')
			_, _ = fmt.Fprintln(there, a)
		}
		_, _ = fmt.Fprintln(there, `{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}`)
		_ = there.Close()
	}()
	_, err := m.ask(t.Context(), "qmp_capabilities", nil)
	require.NoError(t, err)
	require.NoError(t, m.human(t.Context(), "savevm a"))
	require.ErrorContains(t, m.human(t.Context(), "savevm a"), "no disk can take a snapshot")
	_, err = m.ask(t.Context(), "x", nil)
	require.ErrorContains(t, err, "no such command")
	<-m.done
	require.Equal(t, "guest-reset", m.reason)
	_, err = m.ask(t.Context(), "quit", nil)
	require.ErrorIs(t, err, ErrOff)
}
