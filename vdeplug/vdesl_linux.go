package vdeplug

import (
	"context"
	"errors"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/stream"
)

func init() {
	Register(Scheme{
		Name: "vdesl",
		Open: plugsOn(openVDESL),
		Usage: Usage{
			Form:    "vdesl://DEVICE[[OPTIONS]]",
			About:   "the VDE stream format on a serial line",
			Options: []OptionUsage{{Name: "speed", Value: "N", Default: "38400", About: "bits a second"}},
		},
	})
}

// openVDESL speaks the stream format on a serial line.
func openVDESL(_ context.Context, l Locator, _ *Options) (packet.Transport, error) {
	cfg, err := parseVDESL(l)
	if err != nil {
		return nil, err
	}
	return stream.NewLine(cfg.device, cfg.speed)
}

// vdeslConfig is what a vdesl locator says.
type vdeslConfig struct {
	device string
	speed  stream.Speed
}

func parseVDESL(l Locator) (vdeslConfig, error) {
	t, err := l.ParseBracketed()
	if err != nil {
		return vdeslConfig{}, err
	}
	cfg := vdeslConfig{t.Addr, stream.DefaultSpeed}
	err = t.Apply(map[string]func(string, bool) error{
		"speed": func(v string, _ bool) (err error) {
			cfg.speed, err = stream.ParseSpeed(v)
			return err
		},
	})
	if err == nil && cfg.device == "" {
		err = errors.New("no device given")
	}
	return cfg, err
}
