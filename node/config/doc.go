// Package config reads the cloud-config of a node.
//
// A cloud-config is a YAML map whose first comment is one of [Headers]. Muster owns the blocks p2p, k3s, k3s-agent,
// kubevip and upgrade and the keys hostname and config_url; it decodes those strictly and keeps every other block as it
// was written ([Config.Block]). The keys are Kairos's where Kairos has the feature, so that an existing cloud-config
// works; a Kairos key without effect here decodes and gives a [Warning] that names it.
//
// One table of fields ([Fields]) drives decoding, the nearest-key suggestions, the JSON schema ([Schema]), the effective
// configuration with its origins ([Config.Redacted]) and docs/CONFIG.md ([Document]).
//
// # Promises
//
//   - Reading a configuration writes nothing, except that [Load] asks its [Memory] to remember a remote
//     configuration that proved good.
//   - A mistake is an [*InvalidError] that prints at most [MaxLines] lines, each with file, line and column.
//   - The value of a secret key, and any value that might be one, never reaches an error, a warning, a String method
//     or the output of show.
//   - Input is bounded: [MaxSize] bytes, [MaxDepth] levels and [MaxNodes] values once aliases are expanded.
package config
