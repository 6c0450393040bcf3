// Package scenario, in this folder, holds the scenarios that take too long for
// every landing: `make test-long` runs them, `make test` does not. They are
// written with the harness of e2e/scenario, whose files are linked here.
package scenario
