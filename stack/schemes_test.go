package stack

import (
	"context"

	"github.com/vdestack/vdestack/vdeplug"
)

var (
	// Hanging gets a value when hangingtest:// is opened, which waits until the context
	// ends.
	Hanging = make(chan struct{}, 10)
	// Opens has what opens testplug:// next.
	Opens = make(chan func() (vdeplug.Conn, error), 1)
)

func init() {
	vdeplug.Register(vdeplug.Scheme{Name: "hangingtest", Open: func(ctx context.Context, _ vdeplug.Locator, _ *vdeplug.Options) (vdeplug.Conn, error) {
		Hanging <- struct{}{}
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}})
	vdeplug.Register(vdeplug.Scheme{Name: "testplug", Open: func(context.Context, vdeplug.Locator, *vdeplug.Options) (vdeplug.Conn, error) {
		return (<-Opens)()
	}})
}
