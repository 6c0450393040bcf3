// Package vpn is the data plane: one WireGuard device per node, its peers, and
// the mesh's DNS.
//
// The device is the kernel's where the kernel has WireGuard, and
// golang.zx2c4.com/wireguard in this process where it does not. Both are
// configured through wgctrl, with the same configuration, so nothing above
// this package knows which one runs.
//
// What a peer may say is fixed by AllowedIPs, which hold exactly the peer's own
// mesh address: a node cannot speak for another.
package vpn
