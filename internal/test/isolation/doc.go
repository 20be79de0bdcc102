// Package isolation tests that nothing passes between stacks and the host. Its
// tests run on a host that they make up: the same names, addresses and ports as
// in the stacks, with canaries on all of them.
package isolation
