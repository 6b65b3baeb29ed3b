package main

import (
	"context"
	"errors"
)

func mutants(ctx context.Context, o options, names []string) error {
	return errors.New("not yet")
}
