// Package lifecycle tests what stacks leave behind, and what their machinery
// does to the program around them: nothing. Its tests run programs of their
// own, for most of what they count belongs to a whole process.
package lifecycle
