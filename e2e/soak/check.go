package soak

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/muster-edge/muster/e2e/lab"
)

// brokenPromise is what waiting does not mend.
type brokenPromise struct{ what string }

func (b *brokenPromise) Error() string { return b.what }

func broken(format string, args ...any) error { return &brokenPromise{fmt.Sprintf(format, args...)} }

// history is what has ever been true of the site.
type history struct {
	site    string
	owner   map[string]string // address -> identity
	address map[string]string // identity -> address
	name    map[string]string
	decided int
}

func newHistory() history {
	return history{owner: map[string]string{}, address: map[string]string{}, name: map[string]string{}}
}

type status struct {
	ID          string `json:"id"`
	Site        string `json:"site"`
	Phase       string `json:"phase"`
	Role        string `json:"role"`
	Coordinator string `json:"coordinator"`
	Quorum      bool   `json:"quorum"`
}

type decision struct {
	Key   string          `json:"key"`
	Value json.RawMessage `json:"value"`
}

func (s *soak) ask(ctx context.Context, node string, answer any, args ...string) error {
	out, err := s.Exec(ctx, node, append([]string{"muster"}, args...)...)
	if err != nil {
		return fmt.Errorf("%s: muster %s: %w", node, strings.Join(args, " "), err)
	}
	return json.Unmarshal([]byte(out), answer)
}

// check returns nil when the site is whole and every promise holds, a brokenPromise when one does not, and else what is not
// as it should be yet.
func (s *soak) check(ctx context.Context) error {
	names, err := s.Nodes()
	if err != nil {
		return err
	}
	all := map[string]status{}
	var able []string // who may decide
	var first status
	for i, node := range names {
		var st status
		if err := s.ask(ctx, node, &st, "status", "-o", "json"); err != nil {
			return err
		}
		if st.Site != "" && s.seen.site != "" && st.Site != s.seen.site {
			return broken("%s is of site %s, the others of %s", node, st.Site, s.seen.site)
		}
		if st.Site == "" || !st.Quorum || st.Phase != "running" || st.Coordinator == "" {
			return fmt.Errorf("%s: %+v", node, st)
		}
		if i == 0 {
			first = st
		}
		if st.Coordinator != first.Coordinator {
			return fmt.Errorf("%s and %s name different coordinators", names[0], node)
		}
		all[node] = st
		if strings.HasPrefix(st.Role, "master") {
			able = append(able, node)
		}
	}
	s.seen.site = first.Site
	for _, node := range names {
		rows, err := s.Seen(ctx, node)
		if err != nil {
			return err
		}
		running := map[string]bool{}
		for _, row := range rows {
			running[row.ID] = row.Ready
		}
		for other, st := range all {
			if !running[st.ID] {
				return fmt.Errorf("%s does not see %s running", node, other)
			}
		}
	}
	if err := s.checkDecisions(ctx, names); err != nil {
		return err
	}
	if err := s.checkKubernetes(ctx); err != nil {
		return err
	}
	return s.decide(ctx, able)
}

// checkKubernetes wants every node Ready, and the API server to take a write.
func (s *soak) checkKubernetes(ctx context.Context) error {
	if s.k3s == "" {
		return nil
	}
	members, err := s.Status(ctx)
	if err != nil {
		return err
	}
	nodes, err := s.kubectl(ctx, "get", "nodes", "--no-headers")
	if err != nil {
		return err
	}
	for _, m := range members {
		if ready, err := regexp.MatchString(`(?m)^`+regexp.QuoteMeta(m.Hostname)+` +Ready `, nodes); err != nil || !ready {
			return fmt.Errorf("%s is not Ready in Kubernetes: %q", m.Node, nodes)
		}
	}
	_, err = s.kubectl(ctx, "annotate", "node", members[0].Hostname, fmt.Sprintf("soak=%d", s.seen.decided), "--overwrite")
	return err
}

func (s *soak) kubectl(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var out, complaints bytes.Buffer
	if err := s.Kubectl(ctx, lab.Command{Args: args, Stdout: &out, Stderr: &complaints}); err != nil {
		return "", fmt.Errorf("%w: %s", err, complaints.String())
	}
	return out.String(), nil
}

// checkDecisions compares every node's copy with the first one's, and that with all that was there before.
func (s *soak) checkDecisions(ctx context.Context, names []string) error {
	var reference string
	for i, node := range names {
		var rows []decision
		if err := s.ask(ctx, node, &rows, "ledger", "get", "-o", "json"); err != nil {
			return err
		}
		var text strings.Builder
		for _, row := range rows {
			fmt.Fprintf(&text, "%s=%s\n", row.Key, row.Value)
		}
		if i == 0 {
			reference = text.String()
			if err := s.judge(rows); err != nil {
				return err
			}
		} else if text.String() != reference {
			return fmt.Errorf("%s has other decisions than %s", node, names[0])
		}
	}
	return nil
}

func (s *soak) judge(rows []decision) error {
	count := 0
	holder := map[string]string{}
	for _, row := range rows {
		kind, id, _ := strings.Cut(row.Key, "/")
		var value struct{ Addr, Name, Role string }
		if kind != "address" && kind != "name" && kind != "role" {
			continue
		}
		if err := json.Unmarshal(row.Value, &value); err != nil {
			return broken("%s is %s", row.Key, row.Value)
		}
		switch kind {
		case "address":
			if had := s.seen.address[id]; had != "" && had != value.Addr {
				return broken("%s had address %s and has %s", id, had, value.Addr)
			}
			if owner := s.seen.owner[value.Addr]; owner != "" && owner != id {
				return broken("address %s of %s was given to %s", value.Addr, owner, id)
			}
			s.seen.address[id], s.seen.owner[value.Addr] = value.Addr, id
		case "name":
			if other := holder[value.Name]; other != "" {
				return broken("%s and %s are both called %s", other, id, value.Name)
			}
			if had := s.seen.name[id]; had != "" && had != value.Name {
				return broken("%s was called %s and is called %s", id, had, value.Name)
			}
			holder[value.Name], s.seen.name[id] = id, value.Name
		case "role":
			if strings.HasPrefix(value.Role, "master") {
				count++
			}
		}
	}
	if count > masters {
		return broken("%d masters, %d were asked for", count, masters)
	}
	if len(s.seen.address) == 0 {
		return fmt.Errorf("no addresses are decided")
	}
	return nil
}

// decide makes one decision through each master in turn.
func (s *soak) decide(ctx context.Context, able []string) error {
	if len(able) == 0 {
		return fmt.Errorf("there is no master")
	}
	record := fmt.Sprintf("soak%d", s.seen.decided%20)
	s.seen.decided++
	node := able[s.seen.decided%len(able)]
	if _, err := s.Exec(ctx, node, "muster", "dns", "set", record, fmt.Sprintf("192.0.2.%d", s.seen.decided%250+1)); err != nil {
		return fmt.Errorf("%s: decide: %w", node, err)
	}
	return nil
}
