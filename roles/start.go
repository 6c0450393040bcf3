package roles

import "fmt"

// MayStart reports whether a node may start Kubernetes in its role, and if not, what it waits for. It reads decisions
// only, so a node asks it of its own copy: an old copy can say no for too long, but never yes too early, except to the init
// master of an epoch that was superseded meanwhile. That one's CA hash is then refused, and it wipes (see MustWipe).
func MayStart(s State, id NodeID) (bool, string) {
	m, known := s.member(id)
	role := s.Roles[id]
	_, addressed := s.Addresses[id]
	switch {
	case !known:
		return false, "it is not a member of the site"
	case m.Removed:
		return false, "it was removed from the site"
	case !s.Policy.Kubernetes:
		return false, "Kubernetes is switched off (k3s.enabled: false)"
	case !addressed:
		return false, "it has no address yet"
	case s.Names[id] == "":
		return false, "it has no name yet"
	case role == None:
		return false, "it has no role yet"
	case s.Replacement != nil && s.Replacement.Old == id && s.Replacement.Step != StepJoin:
		return false, "it is being replaced: " + s.Replacement.Reason
	case s.Epoch == nil:
		return false, "no master was told to initialise the cluster yet"
	}

	initialises := s.Epoch.Init == id
	tenure := s.Tenures[id]
	switch {
	case tenure.Cleared < tenure.N:
		return false, fmt.Sprintf("it became %s, and the masters have yet to forget what it was in the cluster", role)
	case s.Epoch.CAHash != "" && (role == MasterHA || role == Worker):
		return true, ""
	case initialises && (role == MasterInit || role == Master):
		return true, ""
	case initialises:
		return false, fmt.Sprintf("it is to initialise the cluster (epoch %d), but is %s until its role is decided anew", s.Epoch.N, role)
	case role == MasterInit || role == Master:
		return false, fmt.Sprintf("%s initialises the cluster now (epoch %d)", s.shown(s.Epoch.Init), s.Epoch.N)
	case s.Epoch.CAHash == "":
		return false, fmt.Sprintf("the cluster is not initialised: %s has not committed its CA hash (epoch %d)", s.shown(s.Epoch.Init), s.Epoch.N)
	default:
		return true, ""
	}
}

// Data says what the Kubernetes data on a node's disk is of: the epoch that it noted before it first started Kubernetes, 0
// for no data, and its tenure then.
type Data struct{ Epoch, Tenure int }

// MustWipe reports whether the Kubernetes data that a node holds belongs to an epoch that the site has given up, or to what
// the node was before it was replaced or promoted, and why. Data that is newer than the state only means that the copy is
// behind.
func MustWipe(s State, id NodeID, data Data) (bool, string) {
	m, known := s.member(id)
	switch {
	case data.Epoch == 0:
		return false, ""
	case known && m.Removed:
		return true, "it was removed from the site: it wipes what ties it to the cluster"
	case s.Epoch != nil && data.Epoch < s.Epoch.N:
		return true, fmt.Sprintf("its data is of cluster epoch %d, which epoch %d superseded: it wipes before it joins", data.Epoch, s.Epoch.N)
	case data.Tenure < s.Tenures[id].N:
		return true, fmt.Sprintf("it is %s now, and its data is of what it was before: it wipes before it joins", s.Roles[id])
	}
	return false, ""
}

// Explain returns what member id waits for as far as roles are concerned, a sentence each; nothing when it is what it
// should be. Any node may ask it about any other, from its own copy of the state and its own observations.
func Explain(in Input, id NodeID) []string {
	m, known := in.State.member(id)
	if !known || m.Removed {
		_, why := MayStart(in.State, id)
		return []string{why}
	}
	var sentences []string
	plan := Next(in)
	for _, w := range plan.Waiting {
		if w.ID == id || w.ID == "" {
			sentences = append(sentences, w.Reason)
		}
	}
	var pending []string
	for _, d := range plan.Decisions {
		if who, what := about(d); who == id {
			pending = append(pending, what)
		}
	}
	if len(pending) > 0 {
		return append(sentences, "the coordinator has to commit its "+list(pending))
	}
	if !in.State.Policy.Kubernetes || in.State.Roles[id] == None {
		return sentences
	}

	may, why := MayStart(in.State, id)
	switch {
	case !may:
		sentences = append(sentences, why)
		if in.State.Epoch != nil && in.State.Epoch.Init != id {
			sentences = append(sentences, aboutInit(plan, in.State)...)
		}
	case len(sentences) == 0 && !in.Health[id].K8sReady:
		sentences = append(sentences, "it may start Kubernetes, and is not Ready yet")
	}
	return sentences
}

// aboutInit returns what the plan says about the init master, named.
func aboutInit(plan Plan, s State) []string {
	var sentences []string
	for _, w := range plan.Waiting {
		if w.ID == s.Epoch.Init {
			sentences = append(sentences, s.shown(w.ID)+": "+w.Reason)
		}
	}
	return sentences
}
