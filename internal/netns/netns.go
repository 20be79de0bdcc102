// Package netns makes network namespaces, and sockets, files and programs in them:
// without privilege, without another program, and without moving any thread of the
// process.
//
// One helper task per process does it. It shares the memory and the descriptors of the
// process, has its own user namespace, never runs Go code, and executes lists of system
// calls. A namespace is a descriptor: it costs no task and no thread. See
// docs/DECISIONS.md.
package netns
