package credbroker

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	pb "credbroker.dev/go/credbrokerpb"
)

// The environment variables that `credbroker run` sets.
const (
	// EnvSocket has the path of the broker's socket.
	EnvSocket = "CREDBROKER_SOCKET"
	// EnvCapability has the capability that goes with every call.
	EnvCapability = "CREDBROKER_CAPABILITY"
)

// The version of the protocol that this package speaks.
const protocol = 1

// How long a call may take whose context has no deadline.
const callTimeout = 30 * time.Second

// How long a call waits for a broker that was away: what a Unix socket takes, and some.
const reachTimeout = 200 * time.Millisecond

// Config says which broker to talk to.
type Config struct {
	// Socket is the path of the broker's socket.
	Socket string
	// Capability is 64 hexadecimal digits; empty for a broker that asks for none, such as a plain `credbroker serve`.
	Capability Secret
}

// Client is a connection to a broker. It connects with the first call, and connects again when the connection was lost.
// Its methods may be called from many goroutines. A call whose context has no deadline is given 30 s.
type Client struct {
	socket     string
	connection *grpc.ClientConn
	stub       pb.CredentialBrokerClient
	capability Secret
	life       context.Context // Ends when the client is closed.
	end        context.CancelCauseFunc
	agreeing   chan struct{} // Held by the call that agrees on a version.
	agreed     atomic.Bool
}

// FromEnv returns a client of the broker that [EnvSocket] and [EnvCapability] name.
func FromEnv() (*Client, error) {
	socket := os.Getenv(EnvSocket)
	if socket == "" {
		return nil, fmt.Errorf("%w: %s is not set; start this program with `credbroker run --allow ENTRY -- COMMAND`, or "+
			"set it to the path of a broker's socket", ErrNotConfigured, EnvSocket)
	}
	return New(Config{Socket: socket, Capability: NewSecret(os.Getenv(EnvCapability))})
}

// New returns a client of the broker that the configuration names. It does not connect yet.
func New(config Config) (*Client, error) {
	if config.Socket == "" {
		return nil, fmt.Errorf("%w: the path of the socket is empty", ErrNotConfigured)
	}
	if text := config.Capability.Reveal(); text != "" {
		// The text itself is not told.
		if bytes, err := hex.DecodeString(text); err != nil || len(bytes) != 32 {
			return nil, fmt.Errorf("%w: the capability (%s) has to be 64 hexadecimal digits", ErrNotConfigured, EnvCapability)
		}
	}
	client := &Client{socket: config.Socket, capability: config.Capability, agreeing: make(chan struct{}, 1)}
	client.life, client.end = context.WithCancelCause(context.Background())
	// A dialer of its own takes any path, whatever is special in a URL, and goes through no proxy. A socket costs little to
	// try: a broker that was started again is found within a second.
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", config.Socket)
	}
	connection, err := grpc.NewClient("passthrough:///credbroker",
		grpc.WithContextDialer(dial),
		grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithDisableServiceConfig(),
		grpc.WithUnaryInterceptor(client.interceptUnary),
		grpc.WithStreamInterceptor(client.interceptStream),
	)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotConfigured, err)
	}
	client.connection = connection
	client.stub = pb.NewCredentialBrokerClient(connection)
	return client, nil
}

// Close ends the connection, the calls that are under way and every [TokenSource] of the client.
func (c *Client) Close() error {
	c.end(ErrClosed)
	return c.connection.Close()
}

// String returns the socket's path.
func (c *Client) String() string { return "credbroker client of " + c.socket }

// Format writes the socket's path, whatever the verb is: the fields are not for other goroutines.
func (c *Client) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, c.String()) }

// Stub returns the generated stub over the same connection, for what this package has no method for. Calls carry the
// capability, and unary ones end with an [*Error]. Its messages show their secrets when they are printed.
func (c *Client) Stub() pb.CredentialBrokerClient { return c.stub }

// authorized is the context with the capability and nothing else in its outgoing metadata: what a program's own context
// carries to others, such as its user's authorization, is not for the broker.
func (c *Client) authorized(ctx context.Context) context.Context {
	out := metadata.MD{}
	if capability := c.capability.Reveal(); capability != "" {
		out.Set("authorization", "Bearer "+capability)
	}
	return metadata.NewOutgoingContext(ctx, out)
}

func (c *Client) interceptUnary(ctx context.Context, method string, request, reply any, connection *grpc.ClientConn,
	invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	ctx = c.authorized(ctx)
	c.reach(ctx)
	ask := func(method string, request, reply any) error {
		return c.failed(invoke(ctx, method, request, reply, connection, options...))
	}
	if method != pb.CredentialBroker_GetServerInfo_FullMethodName {
		if err := c.agree(ctx, ask); err != nil {
			return err
		}
	}
	return ask(method, request, reply)
}

func (c *Client) interceptStream(ctx context.Context, description *grpc.StreamDesc, connection *grpc.ClientConn,
	method string, open grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := open(c.authorized(ctx), description, connection, method, options...)
	return stream, c.failed(err)
}

// reach tries the socket now if the last try failed: a call shall not fail only because the broker was away before. gRPC
// would wait until its next own try.
func (c *Client) reach(ctx context.Context) {
	if state := c.connection.GetState(); state == connectivity.TransientFailure {
		ctx, cancel := context.WithTimeout(ctx, reachTimeout)
		defer cancel()
		c.connection.ResetConnectBackoff()
		c.connection.WaitForStateChange(ctx, state)
	}
}

// agree makes sure once for each connection that the broker speaks this package's version. Those who come meanwhile wait.
func (c *Client) agree(ctx context.Context, ask func(method string, request, reply any) error) error {
	if c.agreed.Load() {
		return nil
	}
	select {
	case c.agreeing <- struct{}{}:
		defer func() { <-c.agreeing }()
	case <-ctx.Done():
		return c.failed(ctx.Err())
	}
	if c.agreed.Load() {
		return nil
	}
	request := &pb.GetServerInfoRequest{MinVersion: protocol, MaxVersion: protocol}
	err := ask(pb.CredentialBroker_GetServerInfo_FullMethodName, request, &pb.GetServerInfoResponse{})
	if err == nil {
		c.agreed.Store(true)
	}
	return err
}

// failed makes an [*Error] of what a call ended with.
func (c *Client) failed(err error) error {
	err = errorFrom(err, c.socket)
	known := (*Error)(nil)
	if !errors.As(err, &known) {
		return err
	}
	if known.cause == ErrUnreachable {
		c.agreed.Store(false) // The next connection may be to another broker.
	}
	if known.Code == codes.Canceled && context.Cause(c.life) != nil {
		known.cause, known.Message = ErrClosed, "the client was closed"
	}
	return err
}
