// Package section keeps the parts of docs/BENCHMARKS.md that benchmarks of this module write.
package section

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// Write replaces what stands between a section's markers in the document at path, where they are, or else adds the section at
// its end. The rest of the document stays as it is.
func Write(path, name, body, repeat string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("write section %s: %w", name, err)
	}
	begin, end := "<!-- bench:"+name+":begin -->", "<!-- bench:"+name+":end -->"
	document := string(raw)
	if !strings.Contains(document, begin) {
		document = strings.TrimRight(document, "\n") + "\n\n" + begin + "\n" + end + "\n"
	}
	head, rest, _ := strings.Cut(document, begin)
	_, tail, found := strings.Cut(rest, end)
	if !found {
		return fmt.Errorf("write section %s: %s lacks %s", name, path, end)
	}
	document = fmt.Sprintf("%s%s\n%s\n\n%s\nRepeat: `%s`\n%s%s", head, begin, strings.Trim(body, "\n"), time.Now().UTC().Format(time.DateOnly), repeat, end, tail)
	if err := os.WriteFile(path, []byte(document), 0o644); err != nil {
		return fmt.Errorf("write section %s: %w", name, err)
	}
	return nil
}

// Quantile is the smallest of all values that at least that part of them does not exceed (nearest rank); 0 of none.
func Quantile[T cmp.Ordered](all []T, part float64) T {
	if len(all) == 0 {
		var none T
		return none
	}
	sorted := slices.Sorted(slices.Values(all))
	rank := int(part*float64(len(sorted)) + 0.999999) // 1-based
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// Spread is median and 95th percentile in words.
func Spread(all []time.Duration) string {
	return fmt.Sprintf("%.2f s (%.2f)", Quantile(all, 0.5).Seconds(), Quantile(all, 0.95).Seconds())
}
