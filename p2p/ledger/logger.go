package ledger

import (
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// raftLogger hands what hashicorp/raft says to slog, at debug level whatever
// raft thinks of it: a lost link is an error to raft and a Tuesday to an edge
// site. What matters the ledger says itself.
func raftLogger(log *slog.Logger) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{
		Name:   "raft",
		Level:  hclog.Debug,
		Output: io.Discard,
	})
	l.RegisterSink(slogSink{log})
	return l
}

type slogSink struct{ log *slog.Logger }

func (s slogSink) Accept(name string, level hclog.Level, msg string, args ...any) {
	attrs := append([]any{"part", name, "raft_level", level.String()}, args...)
	s.log.Debug(msg, attrs...)
}
