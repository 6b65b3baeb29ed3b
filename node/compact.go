package node

import "context"

func (n *Node) startCompactor(context.Context) error { return nil }
