package config

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os/exec"
	"slices"

	"github.com/mudler/yip/pkg/executor"
	"github.com/mudler/yip/pkg/logger"
	"github.com/mudler/yip/pkg/plugins"
	"github.com/mudler/yip/pkg/schema"
	"github.com/twpayne/go-vfs/v4"
	"gopkg.in/yaml.v3"
)

// Shell runs the commands of steps.
type Shell interface {
	// Run runs one line under sh -c and returns what it printed. The error must not show the line: it may hold a secret.
	Run(ctx context.Context, line string) (output string, err error)
}

// Runner runs the stages of a configuration through yip, in this process.
type Runner struct {
	Log   *slog.Logger // nil: slog.Default()
	Shell Shell        // nil: the system's sh
	FS    vfs.FS       // nil: the system's
}

// stageParts are the three runs of a stage, as Kairos makes them.
var stageParts = []string{".before", "", ".after"}

// StageSteps is a stage that a configuration has.
type StageSteps struct {
	Stage string   `json:"stage"` // as written, "boot.before" included
	Steps []string `json:"steps"` // names in the order they are written; a step without is "step 2"
}

// Stages names what a configuration would run, in the order of the stages' names.
func (c *Config) Stages() ([]StageSteps, error) {
	all := []StageSteps{}
	stages, err := c.stages()
	for _, name := range slices.Sorted(maps.Keys(stages)) {
		s := StageSteps{Stage: name, Steps: []string{}}
		for i, step := range stages[name] {
			s.Steps = append(s.Steps, cmp.Or(step.Name, fmt.Sprintf("step %d", i+1)))
		}
		all = append(all, s)
	}
	return all, err
}

func (c *Config) stages() (map[string][]schema.Stage, error) {
	block := c.root.get("stages")
	if block == nil {
		return nil, nil
	}
	var stages map[string][]schema.Stage
	if err := block.yaml().Decode(&stages); err != nil {
		return nil, errors.New("a step is not what yip can hold") // Load refuses such a file
	}
	return stages, nil
}

// RunStage runs a stage: NAME.before, NAME and NAME.after, each to its end also when a step of it fails. The error joins
// those of all steps, each with stage and step. A step whose conditions do not hold is passed over.
func (r Runner) RunStage(ctx context.Context, name string, c *Config) error {
	stages, err := c.stages()
	if err != nil {
		return fmt.Errorf("run stage %q: %w", name, err)
	}
	var errs []error
	for _, part := range stageParts {
		if steps := stages[name+part]; len(steps) > 0 {
			errs = append(errs, r.run(ctx, name+part, steps))
		}
	}
	return errors.Join(errs...)
}

// run hands one stage to yip as text, because only so does yip order the steps by their "after".
func (r Runner) run(ctx context.Context, stage string, steps []schema.Stage) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("run stage %q: %w", stage, err)
	}
	text, err := yaml.Marshal(schema.YipConfig{Stages: map[string][]schema.Stage{stage: steps}})
	if err != nil {
		return fmt.Errorf("run stage %q: %w", stage, err)
	}
	log := r.Log
	if log == nil {
		log = slog.Default()
	}
	shell := r.Shell
	if shell == nil {
		shell = systemShell{}
	}
	files := r.FS
	if files == nil {
		files = vfs.OSFS
	}
	yip := executor.NewExecutor(executor.WithLogger(silence{}))
	yip.Plugins(named(ctx, log, stage))
	return yip.Run(stage, files, console{ctx, shell}, string(text))
}

// actions are yip's, in yip's order (its executor.NewExecutor).
var actions = []executor.Plugin{
	plugins.DNS, plugins.Download, plugins.Git, plugins.Entities, plugins.EnsureDirectories, plugins.EnsureFiles, plugins.Commands,
	plugins.DeleteEntities, plugins.Hostname, plugins.Sysctl, plugins.User, plugins.SSH, plugins.LoadModules, plugins.Timesyncd,
	plugins.Systemctl, plugins.Environment, plugins.SystemdFirstboot, plugins.DataSources, plugins.Layout, plugins.Packages,
	plugins.UnpackImage,
}

// named gives errors the step's name and lets a cancelled context stop before the next action: yip does neither.
func named(ctx context.Context, log *slog.Logger, stage string) []executor.Plugin {
	out := make([]executor.Plugin, len(actions))
	for i, action := range actions {
		out[i] = func(l logger.Interface, step schema.Stage, files vfs.FS, c plugins.Console) error {
			if i == 0 {
				log.Debug("step", "stage", stage, "step", step.Name)
			}
			err := ctx.Err()
			if err == nil {
				err = action(l, step, files, c)
			}
			if err == nil {
				return nil
			}
			if step.Name == "" {
				return fmt.Errorf("run stage %q: %w", stage, err)
			}
			return fmt.Errorf("run stage %q: step %q: %w", stage, step.Name, err)
		}
	}
	return out
}

// systemShell is sh of the system.
type systemShell struct{}

func (systemShell) Run(ctx context.Context, line string) (string, error) {
	out, err := exec.CommandContext(ctx, "sh", "-c", line).CombinedOutput()
	return string(out), err
}

// console is what yip's actions run commands through.
type console struct {
	ctx   context.Context // yip's interface passes none
	shell Shell
}

func (c console) Run(line string, _ ...func(*exec.Cmd)) (string, error) {
	out, err := c.shell.Run(c.ctx, line)
	if err != nil {
		return out, fmt.Errorf("a command failed: %w", err)
	}
	return out, nil
}

// Start runs a command that yip built; yip waits for it here.
func (c console) Start(cmd *exec.Cmd, opts ...func(*exec.Cmd)) error {
	for _, opt := range opts {
		opt(cmd)
	}
	if err := c.ctx.Err(); err != nil {
		return err
	}
	return cmd.Run()
}

func (c console) RunTemplate(items []string, template string) error {
	var errs []error
	for _, item := range items {
		if _, err := c.Run(fmt.Sprintf(template, item)); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", item, err))
		}
	}
	return errors.Join(errs...)
}

// silence is yip's logger. yip logs whole steps, which hold secrets, and its errors come back from Run.
type silence struct{}

func (silence) Info(...any)           {}
func (silence) Infof(string, ...any)  {}
func (silence) Warn(...any)           {}
func (silence) Warnf(string, ...any)  {}
func (silence) Debug(...any)          {}
func (silence) Debugf(string, ...any) {}
func (silence) Error(...any)          {}
func (silence) Errorf(string, ...any) {}
func (silence) Trace(...any)          {}
func (silence) Tracef(string, ...any) {}
func (silence) Fatal(...any)          {}
func (silence) Fatalf(string, ...any) {}
func (silence) Panic(...any)          {}
func (silence) Panicf(string, ...any) {}
