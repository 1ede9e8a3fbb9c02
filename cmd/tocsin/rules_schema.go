package main

import "github.com/tocsin-dr/tocsin/detect"

type rulesSchemaCmd struct{}

// Run implements the command.
func (rulesSchemaCmd) Run(std *stdio) error {
	_, err := std.out.Write(detect.Schema())
	return err
}
