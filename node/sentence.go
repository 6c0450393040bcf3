package node

import "strings"

// What a node waits for is said in whole sentences, which `muster why` prints as
// they are. Each names who is waited for and what would help.

// aboutThisNode gives the planner's sentences about "it" their subject.
func aboutThisNode(sentence string) string {
	if strings.HasPrefix(sentence, "it ") || strings.HasPrefix(sentence, "its ") {
		return "this node: " + sentence
	}
	return sentence
}
