// Package vdestack gives a process extra, private TCP/IP stacks.
package vdestack
