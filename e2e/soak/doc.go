// Package soak does random things to a site in the lab for a while, one after another, and after each waits until the site
// has settled and checks what must hold:
//
//   - one site, one coordinator, and every living node sees every other;
//   - the same decisions everywhere, and one more can be made;
//   - with -k3s, every node Ready and an API server that takes a write;
//   - an identity keeps its address and its name; no address is ever given twice; never more masters than asked.
//
// At the end it looks for leaks in every agent: goroutines, memory, open files, and files in the state directory, beside what they were
// when the site had just settled. What is done, to whom and for how long comes from a seed, which is printed; what the nodes
// then do is their own, so a seed repeats the actions and not the outcome.
//
//	make soak D=10m SEED=1
package soak
