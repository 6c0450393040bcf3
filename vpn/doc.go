// Package vpn is the data plane: one WireGuard device per node, its peers, and
// the mesh's DNS.
//
// The device is the kernel's where the kernel has WireGuard, and
// golang.zx2c4.com/wireguard in this process where it does not. Both are
// configured through wgctrl, with the same configuration, so nothing above
// this package knows which one runs.
//
// [Paths] keeps the best way to every peer. It proves endpoints by probes of its
// own from WireGuard's port before the device uses one, and where no endpoint
// answers it gives the device one on loopback, behind which packets go through
// the mesh. Connections inside notice neither.
//
// What a peer may say is fixed by AllowedIPs, which hold exactly the peer's own
// mesh address: a node cannot speak for another.
package vpn
