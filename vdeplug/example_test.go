package vdeplug_test

import (
	"fmt"
	"log"

	"github.com/vdestack/vdestack/vdeplug"
)

// Who sends on a network.
func ExampleOpen() {
	if err := printSenders(); err != nil {
		log.Fatal(err)
	}
}

func printSenders() error {
	c, err := vdeplug.Open("mem://lab", nil)
	if err != nil {
		return err
	}
	defer c.Close()
	buf := make([]byte, vdeplug.MaxFrame)
	for {
		n, err := c.Recv(buf) // until Close, in another goroutine, or the end of the network
		if err != nil {
			return err
		}
		fmt.Printf("%d bytes from %x\n", n, buf[6:12])
	}
}
