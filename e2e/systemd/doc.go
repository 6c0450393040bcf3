// Package systemd shows on a real systemd what node/k3s and deploy/systemd
// promise: a container whose PID 1 is systemd, booted from a minimal Debian,
// with the real D-Bus. It needs root, and leaves nothing behind.
package systemd
