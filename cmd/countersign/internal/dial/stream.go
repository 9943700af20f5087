package dial

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
)

// tellingConn is a connection whose server streams tell why they failed. grpcurl says nothing of a stream that cannot be opened, and
// does not ask for the status of one that ended before its request was sent: a denied call would look like one without responses.
type tellingConn struct {
	grpc.ClientConnInterface
	// failure is why the stream could not be opened.
	failure error
}

// NewStream implements grpc.ClientConnInterface.
func (c *tellingConn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := c.ClientConnInterface.NewStream(ctx, desc, method, opts...)
	if err != nil {
		c.failure = err
		return nil, err
	}
	if desc.ClientStreams {
		return stream, nil
	}
	return tellingStream{stream}, nil
}

type tellingStream struct{ grpc.ClientStream }

// SendMsg implements grpc.ClientStream. It answers io.EOF when the stream has ended; what it ended with is for RecvMsg to say.
func (s tellingStream) SendMsg(m any) error {
	if err := s.ClientStream.SendMsg(m); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
