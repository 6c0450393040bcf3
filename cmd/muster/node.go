package main

import "github.com/spf13/cobra"

// newNodeCommand holds what an operator does to a node of the site; each verb has
// a file of its own.
func newNodeCommand() *cobra.Command {
	parent := &cobra.Command{Use: "node", Short: "Take nodes out of the site, or give a master's place on"}
	parent.AddCommand(newNodeLeaveCommand(), newNodeRemoveCommand(), newNodeReplaceCommand(), newNodeRevokeCommand())
	return parent
}
