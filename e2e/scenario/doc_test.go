// Package scenario holds the promises of a whole site as tests: real agents, each
// on a machine of its own (package lab), with K3s or the stand-in for it.
//
//	make test-e2e
//	MUSTER_BIN=… K3S_BIN=$(e2e/k3slab/build) go test -v -run 'TestLateJoin' ./e2e/scenario
//
// Tests wait for conditions, with deadlines for a busy machine; none asserts on
// speed. One that fails shows the end of every agent's log and what each node
// waits for.
package scenario
