// Package muster is the root of the module and holds no code: its test keeps the imports of the packages below it one-way
// (docs/ARCHITECTURE.md). The command is cmd/muster; a reader begins with docs/ARCHITECTURE.md, a user with README.md.
package muster
