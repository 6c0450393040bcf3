package k3s

import (
	"context"
	"os"
	"os/exec"
)

// process is what a runner keeps alive.
type process struct {
	role   Role
	binary string
	args   []string
	env    map[string]string
	// remove is a file that K3s must not find when it starts, whoever starts it;
	// empty: there is none.
	remove string
}

// passwdFile is where a server keeps the tokens that it lets others in by. It
// writes it at every start from its configuration, and before that compares it
// with what the datastore holds since the cluster was founded: one that differs
// and is newer ends K3s ("newer than datastore and could cause a cluster outage").
// So after an agent token was replaced the start after the next would fail, and
// each one from then on. Without the file K3s makes it anew from both.
const passwdFile = dataDir + "/server/cred/passwd"

// runner keeps K3s running, by the machine's service manager or by itself.
type runner interface {
	// start makes p run; what runs already in the same role stays. It costs a
	// look when nothing is to be done.
	start(ctx context.Context, p process) error
	// running tells whether a K3s process lives in the role.
	running(ctx context.Context, role Role) (bool, error)
	// stop ends K3s in the role, keeps it from coming back, and returns when it
	// is gone. It costs a look when there is none.
	stop(ctx context.Context, role Role) error
	// close ends the runner and leaves K3s as it is.
	close() error
}

// broken is the runner of a machine that cannot run anything.
type broken struct{ err error }

func (b broken) start(context.Context, process) error        { return b.err }
func (b broken) running(context.Context, Role) (bool, error) { return false, b.err }
func (b broken) stop(context.Context, Role) error            { return b.err }
func (b broken) close() error                                { return nil }

// Manager names a way to run K3s.
type Manager string

// The managers.
const (
	ManagerAuto    Manager = ""
	ManagerSystemd Manager = "systemd"
	ManagerOpenRC  Manager = "openrc"
	// ManagerDirect runs K3s as a process of this agent's own, that outlives it.
	ManagerDirect Manager = "direct"
)

// detect finds the machine's service manager the way sd_booted(3) does it. root
// is prepended to paths.
func detect(root string) Manager {
	if info, err := os.Lstat(root + "/run/systemd/system"); err == nil && info.IsDir() {
		return ManagerSystemd
	}
	if _, err := os.Stat(root + "/run/openrc"); err == nil {
		if _, err := exec.LookPath("rc-service"); err == nil {
			return ManagerOpenRC
		}
	}
	return ManagerDirect
}

// unit is the service's name, K3s's own.
func unit(role Role) string {
	if role == Agent {
		return "k3s-agent"
	}
	return "k3s"
}
