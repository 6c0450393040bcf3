package config

// nearest returns the candidate that takes the fewest edits to reach from word, and false when none is near enough to
// be what the author meant: a third of the word may be wrong, and at least two letters.
func nearest(word string, candidates []string) (string, bool) {
	const longest = 64 // the distance is quadratic and word comes from outside
	if word == "" || len(word) > longest {
		return "", false
	}
	best, found := max(2, len(word)/3)+1, ""
	for _, c := range candidates {
		if d := distance(word, c); d < best {
			best, found = d, c
		}
	}
	if found == "" {
		found = alike(word, candidates)
	}
	return found, found != ""
}

// alike returns the only candidate that begins as most of word does: masters for master_nodes.
func alike(word string, candidates []string) string {
	const least = 4 // letters in common: fewer say little
	found := ""
	for _, c := range candidates {
		common := 0
		for common < min(len(word), len(c)) && fold(word[common]) == fold(c[common]) {
			common++
		}
		if common >= least && 3*common >= 2*len(word) {
			if found != "" {
				return ""
			}
			found = c
		}
	}
	return found
}

// distance counts insertions, deletions, substitutions and swaps of neighbours (optimal string alignment). Swaps count as
// one because they are the commonest slip at a keyboard.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if fold(a[i-1]) == fold(b[j-1]) {
				change = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

// fold makes - and _ and the two cases of a letter equal: networkID, network-id and network_id are one word to a person.
func fold(c byte) byte {
	switch {
	case c == '-':
		return '_'
	case 'A' <= c && c <= 'Z':
		return c + 'a' - 'A'
	}
	return c
}
