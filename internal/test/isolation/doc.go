// Package isolation tests that nothing passes between stacks and the host. Its tests run
// on an artificial host that has the same names, addresses and ports as the stacks, with
// a canary on all of them.
package isolation
