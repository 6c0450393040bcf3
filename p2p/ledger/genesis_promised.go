package ledger

// Promised says whether this node is bound to a founding attempt that has no
// outcome yet. Until it has one, the node may not join another site.
func (f *Founding) Promised() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.machine.bound() != nil
}

// Certificate returns the certificate of the site that this node founded with
// others, if it did.
func (f *Founding) Certificate() (Certificate, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.machine.Founded()
}
