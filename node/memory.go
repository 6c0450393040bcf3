package node

import (
	"os"
	"runtime/debug"
)

// gcPercent lets the heap grow by a quarter before it is collected. WireGuard in
// user space keeps some 25 MB of packet buffers that are mostly untouched; at
// the default of 100 the garbage might grow to as much again, and that would be
// touched.
const gcPercent = 25

// LimitMemory makes this process an agent: small on an edge box, where the
// memory belongs to the workload. GOGC in the environment wins.
func LimitMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
