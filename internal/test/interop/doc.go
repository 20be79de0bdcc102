// Package interop has tests only: stacks and the programs of this module talk to
// the programs of Debian, and to a program in C on libvdestack, over all
// networks that both know.
//
// TestTable sees every network with its peers, and is docs/INTEROP.md.
//
// The programs of this module, and those of vdens and slirp, are built with the go
// command. Where that cannot be, the tests find them in the directory that
// VDESTACK_PROGRAMS names, which "go build -o DIRECTORY ./echo_example ./vdens" has
// filled, and "go build -C slirp -o DIRECTORY ./slirp_plug".
package interop
