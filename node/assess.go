package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/muster-edge/muster/node/k3s"
	"github.com/muster-edge/muster/p2p"
	"github.com/muster-edge/muster/roles"
	"github.com/muster-edge/muster/upgrade"
)

const (
	// probeTimeout bounds one question to the kubelet or to an API server.
	probeTimeout = 2 * time.Second
	// kubeletHealthz is where every kubelet answers unless it is told otherwise.
	kubeletHealthz = "http://127.0.0.1:10248/healthz"
	// rebootAgain is when a restart that did not come is asked for again.
	rebootAgain = 5 * time.Minute
)

// assessor judges the image that runs, and says which one it is.
type assessor struct {
	agent *Agent
	slots Slots
	boot  upgrade.Boot
	begun time.Time
	// observe looks at this node and at the others.
	observe func(context.Context) observation

	// What follows is the reconciler's own.
	told     bool // who started, and how often it may be tried
	looked   bool // at whether it is on trial
	onTrial  bool
	trial    trial
	judged   bool
	rebooted time.Time

	mu      sync.Mutex
	state   upgrade.State // of the slots, read at the start and after a verdict
	verdict Verdict
}

// openImage finds out whether this machine runs from a slot; nil if not.
func (a *Agent) openImage() *assessor {
	if a.opts.Slots == nil {
		return nil
	}
	boot, err := a.opts.Slots.Booted()
	if errors.Is(err, upgrade.ErrNotBooted) {
		return nil
	}
	if err != nil {
		a.log.Error("the image that runs is not judged", LogError, err)
		a.loop.note("it is not known which image runs, so it is not judged: " + oneLine(err.Error()))
		return nil
	}
	return &assessor{agent: a, slots: a.opts.Slots, boot: boot, begun: time.Now(), observe: a.observation}
}

// run observes, judges, and acts on what it finds. An image that is good already
// is only confirmed, which tells the boot loader that it may forget what fell
// back before.
func (s *assessor) run(ctx context.Context) ([]string, error) {
	if err := s.introduce(ctx); err != nil {
		return nil, err
	}
	if s.judged || s.boot.Slot == upgrade.Recovery {
		return nil, nil
	}
	if !s.looked {
		onTrial, err := s.slots.OnTrial()
		if err != nil {
			return nil, fmt.Errorf("look whether the image is on trial: %w", err)
		}
		s.looked, s.onTrial = true, onTrial
		if !onTrial {
			if err := markJudged(s.agent.opts.RunDir); err != nil {
				return nil, err
			}
			s.say(VerdictGood)
		}
	}
	deadline := s.agent.opts.Config.Upgrade.HealthDeadline
	verdict, why := s.trial.observe(time.Since(s.begun), s.observe(ctx), deadline)
	switch {
	case verdict == VerdictGood:
		return s.good(ctx, why)
	case !s.onTrial:
		return nil, nil
	case verdict == VerdictBad:
		return s.bad(ctx, why)
	}
	s.say(VerdictUndecided)
	return []string{s.name() + " is on trial: " + why}, nil
}

// introduce says once in a boot which image was started, and tells the boot
// loader how often it may try one.
func (s *assessor) introduce(ctx context.Context) error {
	if s.told {
		return nil
	}
	// While a reset is at work it is too late to count anything.
	if err := s.slots.SetTries(s.agent.opts.Config.Upgrade.Tries); err != nil && !errors.Is(err, upgrade.ErrBusy) {
		return err
	}
	s.look(ctx)
	for _, problem := range s.boot.Problems {
		s.agent.loop.note("while this machine started: " + oneLine(problem))
	}
	path := s.agent.path("booted")
	before, err := os.ReadFile(path)
	if err != nil || string(before) != s.boot.Image {
		if err := p2p.WriteFile(path, []byte(s.boot.Image), 0o600); err != nil {
			s.agent.log.Warn("the image that runs is told of again at the next start", LogError, err)
		}
		s.agent.events.add("image", "booted "+s.name(), digest(s.boot.Image))
	}
	s.told = true
	s.agent.changed.Notify()
	return nil
}

// look reads what is in the slots.
func (s *assessor) look(ctx context.Context) {
	state, err := s.slots.State(ctx, false)
	if err != nil {
		// What cannot be read is not told; the boot loader passes it over.
		s.agent.log.Warn("the slots cannot be read", LogError, err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = state
}

func (s *assessor) good(ctx context.Context, why string) ([]string, error) {
	err := s.slots.MarkGood(upgrade.Options{})
	if errors.Is(err, upgrade.ErrBusy) {
		return []string{s.name() + " proved good, which is noted when the upgrade at work is done"}, nil
	}
	if err == nil {
		err = markJudged(s.agent.opts.RunDir)
	}
	if err != nil {
		return nil, err
	}
	s.judged = true
	if s.onTrial {
		s.agent.log.Info("the image proved good", LogImage, s.boot.Image, LogReason, why)
		s.agent.events.add("image", s.name()+" proved good", why)
	}
	s.look(ctx)
	s.say(VerdictGood)
	return nil, nil
}

func (s *assessor) bad(ctx context.Context, why string) ([]string, error) {
	if !s.rebooted.IsZero() && time.Since(s.rebooted) < rebootAgain {
		return []string{s.name() + " is bad, the machine restarts: " + why}, nil
	}
	s.say(VerdictBad)
	err := condemn(ctx, s.slots, s.boot, why, func(ctx context.Context) error {
		// Before the restart, which ends the agent.
		s.agent.log.Error("the image is bad, the machine restarts", LogImage, s.boot.Image, LogReason, why)
		s.agent.events.add("image", s.name()+" is bad, the machine restarts", why)
		reboot := s.agent.opts.Reboot
		if reboot == nil {
			reboot = systemReboot
		}
		return reboot(ctx)
	})
	if errors.Is(err, errNothingBetter) {
		return []string{s.name() + " is bad, and no other image that proved good is there to go back to: " + why}, nil
	}
	if err != nil {
		return nil, err
	}
	s.rebooted = time.Now()
	return []string{s.name() + " is bad, the machine restarts: " + why}, nil
}

// say changes what others are shown.
func (s *assessor) say(v Verdict) {
	s.mu.Lock()
	changed := s.verdict != v
	s.verdict = v
	s.mu.Unlock()
	if changed {
		s.agent.changed.Notify()
	}
}

// name is how a person knows the image.
func (s *assessor) name() string {
	version := s.version()
	if version == "" {
		version = s.boot.Image[:min(12, len(s.boot.Image))]
	}
	return fmt.Sprintf("the image %s in the %s slot", version, s.boot.Slot)
}

// version is what people call the image that runs, "" if that is not known.
func (s *assessor) version() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Slots[s.boot.Slot].Version
}

// passive returns what the other slot holds; false if nothing that starts.
func (s *assessor) passive() (upgrade.SlotState, bool) {
	other := upgrade.Passive
	if s.boot.Slot == upgrade.Passive {
		other = upgrade.Active
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	slot, ok := s.state.Slots[other]
	return slot, ok && slot.Problem == "" && slot.Digest != ""
}

// tell puts into a node's facts what it runs from. The feature level is the one
// that both slots know; an image that does not say knows the first.
func (s *assessor) tell(f *Facts) {
	if s == nil {
		return
	}
	f.Slot, f.Image, f.ImageVersion, f.Verdict = s.boot.Slot, digest(s.boot.Image), s.version(), s.now()
	if other, ok := s.passive(); ok {
		f.Passive = SlotFacts{Image: other.Digest, Version: other.Version, FeatureLevel: max(1, other.FeatureLevel)}
		f.FeatureLevel = min(f.FeatureLevel, f.Passive.FeatureLevel)
	}
}

// now returns the verdict of this moment.
func (s *assessor) now() Verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.verdict
}

// attempt is what came of the last look at this node's K3s.
type attempt struct {
	held   string // K3s is not to be started yet, or not through the image's fault
	failed error  // it cannot be started
}

// observation is what the verdict needs to know of this node and of the others.
func (a *Agent) observation(ctx context.Context) observation {
	a.mu.Lock()
	m := a.member
	a.mu.Unlock()
	if m == nil || !m.founded() {
		return observation{}
	}
	_, state, err := m.view()
	if err != nil {
		return observation{StateProblem: err.Error()}
	}
	self := m.self()
	o := observation{
		Member: true, Kubernetes: state.Policy.Kubernetes, Role: state.Roles[self],
		Connected: m.connected(state.Addresses[self]), ExternalDB: state.Policy.ExternalDB != "",
	}
	if !o.Kubernetes || o.Role == roles.None {
		return o
	}
	m.mu.Lock()
	tried := m.tried
	m.mu.Unlock()
	switch {
	case tried == nil:
		o.Held = "K3s has not been asked for yet"
	case tried.failed != nil:
		o.Failed = tried.failed.Error()
	default:
		o.Held = tried.held
	}
	now := a.distro.State()
	o.Running, o.Serving, o.NodeReady, o.Waiting = now.Running, now.Serving, now.NodeReady, now.Waiting
	o.Kubelet = o.NodeReady || o.Running && kubeletAnswers(ctx)
	m.observeOthers(ctx, state, &o)
	return o
}

// observeOthers says how the others do, as far as this node sees them.
func (m *member) observeOthers(ctx context.Context, state roles.State, o *observation) {
	a, self := m.agent, m.self()
	look := m.liveFacts(state)
	for id, role := range state.Roles {
		if role.IsMaster() {
			o.Masters++
		}
		f, heard := look(id)
		switch {
		case id == self || !heard:
		case role.IsMaster() && f.Kubernetes.Serving:
			o.OthersServing++
		case role == roles.Worker && f.Kubernetes.NodeReady:
			o.OthersReady++
		}
	}
	if o.Running && o.Kubelet {
		return // nobody is blamed
	}
	if server := liveServer(state, self, onMesh(a.opts.Config), look); server != "" {
		o.APIReachable = listens(ctx, server)
	}
}

// listens tells whether something answers at the URL of an API server that says
// of itself that it serves.
func listens(ctx context.Context, server string) bool {
	u, err := url.Parse(server)
	if err != nil {
		return false
	}
	d := net.Dialer{Timeout: probeTimeout}
	c, err := d.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return false
	}
	_ = c.Close() // nothing was said
	return true
}

// kubeletAnswers asks this machine's kubelet whether it is healthy.
func kubeletAnswers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, kubeletHealthz, nil)
	if err != nil {
		return false
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	_ = response.Body.Close() // the status says it
	return response.StatusCode == http.StatusOK
}

// attempted notes what came of a look at K3s. asked is set when K3s was to be
// started.
func (m *member) attempted(asked bool, waiting []string, err error) {
	t := &attempt{}
	switch {
	case err != nil && asked && m.imagesFault(err):
		t.failed = err
	case err != nil:
		t.held = err.Error()
	case !asked:
		t.held = strings.Join(append(waiting, "K3s is not to run on this node yet")[:1], "")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tried = t
}

// imagesFault tells whether an error of starting K3s is the image's: not one of
// the configuration, of a download, or of a disk that is full or of another
// cluster.
func (m *member) imagesFault(err error) bool {
	for _, others := range []error{k3s.ErrReserved, k3s.ErrForeignDisk, syscall.ENOSPC, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, others) {
			return false
		}
	}
	return m.agent.opts.Config.K3s.URL == ""
}
