// Package interop has tests only. Stacks and our programs talk to the programs of Debian,
// and to a C program on libvdestack, over all networks that both know. TestTable writes
// docs/INTEROP.md.
//
// Our programs are built with the go command. Where that is not possible, the tests use
// those in the directory that VDESTACK_PROGRAMS names, filled by "go build -o DIRECTORY
// ./echo_example ./vdens" and "go build -C slirp -o DIRECTORY ./slirp_plug".
package interop
