package p2p

import (
	"log"
	"log/slog"
	"strings"
)

// slogWriter is memberlist's logger: everything at debug, as what matters of it
// is said by [Membership] itself.
func slogWriter(to *slog.Logger) *log.Logger {
	return log.New(memberlistLog{to}, "", 0)
}

type memberlistLog struct{ to *slog.Logger }

func (l memberlistLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	level := ""
	if rest, ok := strings.CutPrefix(text, "["); ok {
		if before, after, ok := strings.Cut(rest, "] "); ok {
			level, text = strings.ToLower(before), after
		}
	}
	l.to.Debug(strings.TrimPrefix(text, "memberlist: "), "memberlist_level", level)
	return len(line), nil
}
