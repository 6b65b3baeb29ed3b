package mailbox

import (
	"context"
	"errors"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage"
)

// Forward proposes a Deliver of a message that one shard holds, with its summary,
// to another, once: it fills in cmd.Summary and cmd.Body. Chunks, if it takes any,
// are sent ahead as an upload of their own, since those of the first try may be
// gone, in part.
//
// Unknown: the message may yet be delivered. Corrupt, NotFound: it cannot be read.
// With doubts in the result nothing was delivered (storage.Deliver).
func (s *Service) Forward(ctx context.Context, from storage.Reader, body covey.BodyID, to covey.ShardID, cmd storage.Deliver) (*storage.Result, error) {
	extents, err := from.Body(body)
	if err != nil {
		return nil, err
	}
	if cmd.Summary, err = from.Summary(body); err != nil {
		return nil, err
	}
	if len(extents) > 1 {
		return s.forwardChunks(ctx, stored{from, body, len(extents)}, to, cmd)
	}
	cmd.Body = storage.Body{}
	if len(extents) == 1 {
		if cmd.Body.Inline, err = storage.ReadPart(from, s.cfg.Bodies, body, 0); err != nil {
			return nil, err
		}
		cmd.Body.Size = int64(len(cmd.Body.Inline))
	}
	return s.try(ctx, to, cmd)
}

// stored is a body in parts.
type stored struct {
	from  storage.Reader
	id    covey.BodyID
	parts int
}

func (s *Service) forwardChunks(ctx context.Context, b stored, to covey.ShardID, cmd storage.Deliver) (res *storage.Result, err error) {
	cmd.Body = storage.Body{Upload: s.cfg.Uploads.Next(), Chunks: uint32(b.parts)}
	if err = s.sendChunks(ctx, b, to, &cmd.Body); err == nil {
		res, err = s.try(ctx, to, cmd)
	}
	if err != nil && !errors.Is(err, covey.Unknown) || err == nil && len(res.Doubts) > 0 {
		s.abort(cmd.Body.Upload, to)
	}
	return res, err
}

func (s *Service) sendChunks(ctx context.Context, b stored, to covey.ShardID, body *storage.Body) error {
	for n := range b.parts {
		p, err := storage.ReadPart(b.from, s.cfg.Bodies, b.id, n)
		if err != nil {
			return err
		}
		if _, err := s.try(ctx, to, storage.Chunk{Upload: body.Upload, N: uint32(n), Time: s.cfg.Now(), Data: p}); err != nil {
			return err
		}
		body.Size += int64(len(p))
	}
	return nil
}

// try proposes a command once, for as long as one try of Insist.
func (s *Service) try(ctx context.Context, id covey.ShardID, cmd storage.Command) (*storage.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	return s.cfg.Shards.Propose(ctx, id, cmd)
}

// abort drops the chunks of an upload; where that does not succeed they expire by
// themselves.
func (s *Service) abort(upload covey.DeliveryID, shards ...covey.ShardID) {
	ctx, cancel := context.WithTimeout(context.Background(), abortTimeout)
	defer cancel()
	for _, id := range shards {
		if _, err := s.cfg.Shards.Propose(ctx, id, storage.Abort{Upload: upload}); err != nil {
			s.cfg.Logger.Debug("chunks left to expire", "upload", upload.String(), "shard", id, "err", err)
		}
	}
}
