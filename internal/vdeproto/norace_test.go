//go:build !race

package vdeproto

const raceEnabled = false
