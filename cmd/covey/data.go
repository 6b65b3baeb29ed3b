package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/covey-mail/covey/node/admin"
)

// dataFlags say which node a command speaks to and how it prints.
type dataFlags struct {
	Data   string `help:"Data folder of the node." placeholder:"DIR"`
	Config string `help:"Configuration file that names the data folder." placeholder:"FILE"`
	JSON   bool   `help:"Print JSON for a script to read." name:"json"`
}

// client returns a client of the node; the caller closes it.
func (f dataFlags) client() (*admin.Client, error) {
	dir, err := f.dir()
	if err != nil {
		return nil, err
	}
	return admin.NewClient(dir), nil
}

// dir returns the absolute path of the data folder.
func (f dataFlags) dir() (string, error) {
	cfg, err := source{file: f.Config, data: f.Data, getenv: os.LookupEnv}.load()
	if err != nil {
		return "", err
	}
	return filepath.Abs(cfg.Node.Data)
}

// call runs one operation on the node that f names.
func call[Resp any](ctx context.Context, f dataFlags, op string, req any) (Resp, error) {
	c, err := f.client()
	if err != nil {
		var none Resp
		return none, err
	}
	defer c.Close()
	return admin.Call[Resp](ctx, c, op, req)
}
