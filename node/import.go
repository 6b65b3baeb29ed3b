package node

import (
	"context"
	"fmt"
	"strings"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/node/admin"
)

// Bounds of one import request; a file comes in several.
const (
	maxImportLines  = 10000
	maxImportErrors = 100
)

func (n *Node) userImport(ctx context.Context, r admin.ImportRequest) (admin.ImportResult, error) {
	if len(r.Lines) > maxImportLines {
		return admin.ImportResult{}, covey.Errorf(covey.TooBig, "import of %d lines at once: at most %d", len(r.Lines), maxImportLines)
	}
	done, err := n.directory.Import(ctx, strings.NewReader(strings.Join(r.Lines, "\n")), directory.DefaultQuota, nil)
	res := admin.ImportResult{Added: done.Added, Updated: done.Updated, Same: done.Unchanged, Failed: done.Failed}
	for _, e := range done.Errors[:min(len(done.Errors), maxImportErrors)] {
		res.Errors = append(res.Errors, fmt.Sprintf("line %d: %v", r.First+e.Line-1, e.Err))
	}
	return res, err
}
