package k3s

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// podMounts are where K3s mounts what pods use. Their volumes are bound in
// there, and a wipe must not reach through.
var podMounts = []string{"/run/k3s", "/var/lib/kubelet"}

// podLinks are flannel's interfaces; with the addresses of another cluster they
// would be in its way.
var podLinks = []string{"cni0", "flannel.1", "flannel-v6.1", "flannel-wg", "flannel-wg-v6", "kube-ipvs0"}

// endPods ends what K3s leaves running when it stops, as k3s-killall.sh does:
// containers, their mounts and interfaces. K3s lets them go on on purpose, so
// that pods survive its restart; they must not survive the node's cluster.
func endPods(ctx context.Context, root string, log *slog.Logger) error {
	pids, err := shimTrees(root)
	if err != nil {
		return fmt.Errorf("end pods: %w", err)
	}
	if len(pids) > 0 {
		log.Info("ending pods", "processes", len(pids))
	}
	for _, pid := range pids {
		if err := kill(ctx, pid); err != nil {
			return fmt.Errorf("end pods: %w", err)
		}
	}
	if err := unmountPods(root); err != nil {
		return fmt.Errorf("end pods: %w", err)
	}
	if root != "" {
		return nil // interfaces are the machine's
	}
	for _, name := range podLinks {
		link, err := netlink.LinkByName(name)
		if err != nil {
			continue // there is none
		}
		if err := netlink.LinkDel(link); err != nil {
			return fmt.Errorf("end pods: remove interface %s: %w", name, err)
		}
	}
	return nil
}

// shimTrees returns the containerd shims of K3s and all processes below them,
// parents first, so that none is started again.
func shimTrees(root string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	var found []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if parent, err := parentOf(pid); err == nil {
			children[parent] = append(children[parent], pid)
		}
		// /var/lib/rancher/k3s/data/HASH/bin/containerd-shim-runc-v2
		exe, err := os.Readlink(filepath.Join("/proc", entry.Name(), "exe"))
		if err == nil && strings.HasPrefix(exe, root+dataDir+"/data/") && strings.HasPrefix(filepath.Base(exe), "containerd-shim") {
			found = append(found, pid)
		}
	}
	seen := map[int]bool{}
	var all []int
	for len(found) > 0 {
		pid := found[0]
		found = found[1:]
		if seen[pid] || pid == os.Getpid() {
			continue
		}
		seen[pid] = true
		all = append(all, pid)
		found = append(found, children[pid]...)
	}
	return all, nil
}

func parentOf(pid int) (int, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 2 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	return strconv.Atoi(fields[1])
}

// kill ends a process for good and waits for its end.
func kill(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil // gone
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for ctx.Err() == nil {
		n, err := unix.Poll(fds, int((100 * time.Millisecond).Milliseconds()))
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for process %d: %w", pid, err)
		}
	}
	return fmt.Errorf("wait for process %d: %w", pid, ctx.Err())
}

// unmountPods takes down the mounts of pods, the deepest first. A mount that is
// still in use vanishes from sight now and in fact when its user ends.
func unmountPods(root string) error {
	targets, err := mountsBelow(root)
	if err != nil {
		return err
	}
	for _, target := range targets {
		if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", target, err)
		}
	}
	return nil
}

func mountsBelow(root string) ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var targets []string
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		target := unescapeMount(fields[4])
		for _, dir := range podMounts {
			// The directory itself may be a disk of the user's.
			if strings.HasPrefix(target, root+dir+"/") {
				targets = append(targets, target)
			}
		}
	}
	slices.Reverse(targets) // later mounts lie on earlier ones
	return targets, lines.Err()
}

// unescapeMount undoes the octal escapes of proc_pid_mountinfo(5).
func unescapeMount(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}
