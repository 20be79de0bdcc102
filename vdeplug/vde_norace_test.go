//go:build !race

package vdeplug

const raceEnabled = false
