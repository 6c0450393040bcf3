package roles

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the transcripts in testdata anew")

// TestInteraction replays the transcripts in testdata/*.txt. Each is a site from power-on: commands, and after "----" what
// came of them. They are meant to be read; testdata/README.md lists the commands. After a change on purpose:
//
//	go test ./roles -run TestInteraction -update
func TestInteraction(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			recorded, err := os.ReadFile(file)
			require.NoError(t, err)
			replayed := replay(t, string(recorded))
			if *update {
				require.NoError(t, os.WriteFile(file, []byte(replayed), 0o644))
				return
			}
			require.Equal(t, string(recorded), replayed)
		})
	}
}

// replay runs the commands of a transcript and returns it with their present output. Recorded output is everything from a
// line "----" to the next empty line.
func replay(t *testing.T, transcript string) string {
	var out strings.Builder
	script := &script{simulation: newSimulation(), policy: DefaultPolicy()}
	var printed bytes.Buffer
	inOutput := false
	for line := range strings.Lines(transcript) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "----":
			inOutput = true
			out.WriteString("----\n" + printed.String())
			printed.Reset()
		case line == "":
			inOutput = false
			out.WriteString("\n")
		case inOutput:
		case strings.HasPrefix(line, "#"):
			out.WriteString(line + "\n")
		default:
			out.WriteString(line + "\n")
			require.NoError(t, script.run(&printed, strings.Fields(line)), "command %q", line)
		}
	}
	require.Zero(t, printed.Len(), "the last command has no ----")
	return out.String()
}

type script struct {
	*simulation
	policy Policy // of the machines powered on from now
}

func (s *script) run(w *bytes.Buffer, words []string) error {
	var names []NodeID
	options := map[string]string{}
	for _, word := range words[1:] {
		if key, value, isOption := strings.Cut(word, "="); isOption {
			options[key] = value
		} else {
			names = append(names, NodeID(word))
		}
	}
	switch words[0] {
	case "policy":
		return s.setPolicy(w, options)
	case "power-on":
		return s.runPowerOn(names, options)
	case "found":
		s.runFound(w, names[0])
	case "enrol":
		s.joined++
		for _, id := range names {
			s.enrol(id)
		}
	case "plan":
		return s.runPlan(w, options)
	case "may-start":
		s.runMayStart(w)
	case "ca":
		return s.runCA(w, names[0], options)
	case "ready":
		for _, id := range names {
			s.machines[id].ready, s.machines[id].caHash = true, s.state.caHash()
			s.machines[id].data = Data{Epoch: 1, Tenure: s.state.Tenures[id].N}
			if s.state.Roles[id].IsMaster() {
				s.joinEtcd(id)
			}
		}
	case "kill", "boot":
		for _, id := range names {
			s.setUp(id, words[0] == "boot")
		}
	case "wait":
		d, err := time.ParseDuration(string(names[0]))
		s.now += d
		return err
	case "coordinator":
		s.takeOffice(names[0])
	case "remove":
		s.remove(names[0])
	case "ask":
		s.ask(names[0], Request(options["for"]))
	case "lease":
		s.machines[names[0]].lease = true
	case "execute":
		fmt.Fprintf(w, "done: %t\n", s.execute(*s.state.Replacement))
	case "wipe":
		m := s.machines[names[0]]
		wipe, why := MustWipe(*s.state, names[0], m.data)
		if wipe {
			m.data, m.ready = Data{}, false
		}
		fmt.Fprintf(w, "%t %s\n", wipe, why)
	case "clear":
		s.clear()
	case "must-wipe":
		epoch, err := strconv.Atoi(options["epoch"])
		if wipe, why := MustWipe(*s.state, "", Data{Epoch: epoch}); wipe {
			fmt.Fprintf(w, "yes: %s\n", why)
		} else {
			fmt.Fprintln(w, "no")
		}
		return err
	case "why":
		for _, id := range names {
			for _, sentence := range Explain(s.input(), id) {
				fmt.Fprintf(w, "%s: %s\n", id, sentence)
			}
		}
	case "site":
		s.runSite(w)
	default:
		return fmt.Errorf("unknown command %q", words[0])
	}
	return nil
}

func (s *script) setPolicy(w *bytes.Buffer, options map[string]string) error {
	for key, value := range options {
		var err error
		switch key {
		case "master_nodes":
			s.policy.HA = true
			s.policy.AdditionalMasters, err = strconv.Atoi(value)
		case "minimum_nodes":
			s.policy.MinimumNodes, err = strconv.Atoi(value)
		case "auto":
			s.policy.Auto, err = strconv.ParseBool(value)
		case "kubernetes":
			s.policy.Kubernetes, err = strconv.ParseBool(value)
		case "dynamic_roles":
			s.policy.DynamicRoles, err = strconv.ParseBool(value)
		case "replace_after":
			s.policy.ReplaceAfter, err = time.ParseDuration(value)
		case "range":
			s.policy.Range, err = netip.ParsePrefix(value)
		default:
			err = fmt.Errorf("unknown policy %q", key)
		}
		if err != nil {
			return err
		}
	}
	fmt.Fprintf(w, "%s\n", s.policy)
	return nil
}

func (s *script) runPowerOn(names []NodeID, options map[string]string) error {
	for _, id := range names {
		c := Candidate{ID: id, Hostname: string(id), StaticRole: Role(options["role"]), Policy: s.policy}
		if hostname, set := options["hostname"]; set {
			c.Hostname = hostname
		}
		c.JoinOnly = options["join_only"] == "true"
		c.Conflict = options["conflict"] == "true"
		if lan, set := options["lan"]; set {
			prefix, err := netip.ParsePrefix(lan)
			if err != nil {
				return err
			}
			c.LANs = []netip.Prefix{prefix}
		}
		s.powerOn(c)
	}
	return nil
}

func (s *script) runFound(w *bytes.Buffer, by NodeID) {
	founding, why := PlanFounding(by, s.visible())
	for _, sentence := range why {
		fmt.Fprintf(w, "waits: %s\n", sentence)
	}
	if len(why) == 0 {
		fmt.Fprintf(w, "founders %v, masters %v, range %s\n", founding.Founders, founding.Masters, founding.Range)
		s.found(founding)
	}
}

// runPlan lets the coordinator plan once and commits all decisions, or the first commit=N of them.
func (s *script) runPlan(w *bytes.Buffer, options map[string]string) error {
	plan := Next(s.input())
	limit := len(plan.Decisions)
	if value, set := options["commit"]; set {
		n, err := strconv.Atoi(value)
		if err != nil {
			return err
		}
		limit = min(limit, n)
	}
	for i, d := range plan.Decisions {
		if i < limit {
			fmt.Fprintf(w, "%s\n", d)
			s.apply(d)
		} else {
			fmt.Fprintf(w, "not committed: %s\n", d)
		}
	}
	for _, waiting := range plan.Waiting {
		id := waiting.ID
		if id == "" {
			id = "site"
		}
		fmt.Fprintf(w, "%s waits: %s\n", id, waiting.Reason)
	}
	if len(plan.Decisions)+len(plan.Waiting) == 0 {
		fmt.Fprintln(w, "nothing to decide")
	}
	if again := Next(s.input()).Decisions; limit == len(plan.Decisions) && len(again) > 0 {
		return fmt.Errorf("decisions are left: %v", again)
	}
	return nil
}

func (s *script) runMayStart(w *bytes.Buffer) {
	for _, m := range s.roster() {
		if may, why := MayStart(*s.state, m.ID); may {
			fmt.Fprintf(w, "%s yes\n", m.ID)
		} else {
			fmt.Fprintf(w, "%s no: %s\n", m.ID, why)
		}
	}
}

func (s *script) runCA(w *bytes.Buffer, id NodeID, options map[string]string) error {
	epoch, err := strconv.Atoi(options["epoch"])
	if err != nil {
		return err
	}
	if err := s.commitCA(id, epoch, options["hash"]); err != nil {
		fmt.Fprintf(w, "refused: %s\n", err)
		return nil
	}
	s.machines[id].caHash = options["hash"]
	return nil
}

func (s *script) runSite(w *bytes.Buffer) {
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, m := range s.roster() {
		var marks string
		switch {
		case m.Removed:
			marks = "removed"
		case !s.machines[m.ID].up:
			marks = "down"
		case s.machines[m.ID].ready:
			marks = "Ready"
		default:
			marks = "up"
		}
		address := "-"
		if a, has := s.state.Addresses[m.ID]; has {
			address = a.String()
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", m.ID, orDash(s.state.Names[m.ID]), orDash(string(s.state.Roles[m.ID])), address, marks)
	}
	table.Flush()
	if e := s.state.Epoch; e != nil {
		fmt.Fprintf(w, "epoch %d: init %s, CA %s, formed %t\n", e.N, e.Init, orDash(e.CAHash), e.FormedMasters)
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
