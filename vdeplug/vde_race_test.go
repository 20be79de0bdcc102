//go:build race

package vdeplug

const raceEnabled = true
