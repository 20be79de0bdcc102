// Package netns makes network namespaces for the process that calls it, and
// sockets, files and programs in them: without privilege, without another
// program, and without moving any thread of the process.
//
// One helper task a process does it. It shares the memory and the descriptors
// of the process, has a user namespace of its own, never runs Go code, and
// executes lists of system calls from memory that both share. A namespace is a descriptor:
// it costs no task and no thread. See docs/DECISIONS.md.
package netns
