package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/muster-edge/muster/upgrade"
)

const (
	// agentMargin is what the agent has beyond the deadline to judge by itself.
	agentMargin = time.Minute
	// agentPatience is for how long the agent must not answer to count as dead, so
	// that one that is just being restarted does not.
	agentPatience = 30 * time.Second
	agentPoll     = 3 * time.Second
	// manyRestarts are more than an agent that lives needs in one boot.
	manyRestarts = 10
)

// AgentCheck is what CheckAgent needs.
type AgentCheck struct {
	Slots    Slots
	RunDir   string
	Deadline time.Duration // upgrade.health_deadline
	Log      *slog.Logger

	// Uptime of the machine, Restarts of the agent by its supervisor, and Reboot are
	// the system's when nil.
	Uptime   func() (time.Duration, error)
	Restarts func(context.Context) (int, error)
	Reboot   func(context.Context) error
}

// CheckAgent judges in the place of an agent that is dead: an image on trial
// whose agent does not answer, or ends again and again, past the deadline is bad.
func CheckAgent(ctx context.Context, c AgentCheck) error {
	boot, err := c.Slots.Booted()
	if errors.Is(err, upgrade.ErrNotBooted) {
		return nil
	}
	if err != nil {
		return err
	}
	onTrial, err := c.Slots.OnTrial()
	if err != nil {
		return fmt.Errorf("look whether the image is on trial: %w", err)
	}
	if !onTrial {
		return markJudged(c.RunDir) // for this boot, it need not be asked again
	}
	if c.Uptime == nil {
		c.Uptime = uptime
	}
	if c.Restarts == nil {
		c.Restarts = systemdRestarts
	}
	if c.Reboot == nil {
		c.Reboot = systemReboot
	}
	up, err := c.Uptime()
	if err != nil || up < c.Deadline+agentMargin {
		return err
	}
	reason, err := c.dead(ctx)
	if err != nil || reason == "" {
		return err
	}
	err = condemn(ctx, c.Slots, boot, reason, func(ctx context.Context) error {
		c.Log.Error("the image is bad, the machine restarts", LogImage, boot.Image, LogReason, reason)
		return c.Reboot(ctx)
	})
	if errors.Is(err, errNothingBetter) {
		return fmt.Errorf("%s, and the machine is not restarted: %w", reason, err)
	}
	return err
}

// dead says in which way the agent is, "" if it lives.
func (c AgentCheck) dead(ctx context.Context) (string, error) {
	restarts, err := c.Restarts(ctx)
	if err != nil {
		c.Log.Warn("the agent's restarts are not known", LogError, err)
	}
	if restarts >= manyRestarts {
		return fmt.Sprintf("the agent ended %d times", restarts), nil
	}
	client := NewClient(c.RunDir)
	for begun := time.Now(); ; {
		asked, cancel := context.WithTimeout(ctx, agentPoll)
		_, err := client.Status(asked)
		cancel()
		if err == nil {
			return "", nil
		}
		if time.Since(begun) >= agentPatience {
			return "the agent does not run: " + firstLine(err.Error()), nil
		}
		if !sleep(ctx, agentPoll, nil) {
			return "", ctx.Err()
		}
	}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// uptime is how long the kernel runs.
func uptime() (time.Duration, error) {
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0, fmt.Errorf("read uptime: %w", err)
	}
	first, _, _ := strings.Cut(string(text), " ")
	seconds, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0, fmt.Errorf("read uptime: %w", err)
	}
	return time.Duration(seconds * float64(time.Second)), nil
}

// systemdRestarts is how often systemd started the agent again by itself.
func systemdRestarts(ctx context.Context) (int, error) {
	out, err := exec.CommandContext(ctx, "systemctl", "show", "--property=NRestarts", "--value", "muster.service").Output()
	if err != nil {
		return 0, fmt.Errorf("ask systemd for restarts: %w", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		return 0, fmt.Errorf("ask systemd for restarts: %w", err)
	}
	return n, nil
}
