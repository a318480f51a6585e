import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import credbroker.v1.CredentialBrokerGrpc;
import credbroker.v1.CredentialBrokerOuterClass.GetTokenRequest;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.NettyChannelBuilder;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.MetadataUtils;
import io.netty.channel.EventLoopGroup;
import io.netty.channel.epoll.EpollDomainSocketChannel;
import io.netty.channel.epoll.EpollEventLoopGroup;
import io.netty.channel.unix.DomainSocketAddress;
import java.util.concurrent.TimeUnit;

/** A credbroker client in Java: generated stubs, a plain channel, and how to read an error. */
public final class Client implements AutoCloseable {
  private final EventLoopGroup events = new EpollEventLoopGroup(1);
  final ManagedChannel channel =
      NettyChannelBuilder.forAddress(new DomainSocketAddress(System.getenv("CREDBROKER_SOCKET")))
          .eventLoopGroup(events)
          .channelType(EpollDomainSocketChannel.class)
          .usePlaintext()
          .build();

  /** The stub whose calls carry a capability. */
  CredentialBrokerGrpc.CredentialBrokerBlockingStub broker(String capability) {
    Metadata headers = new Metadata();
    headers.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + capability);
    return CredentialBrokerGrpc.newBlockingStub(channel)
        .withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers));
  }

  /** The stub that a program in the sandbox uses. */
  CredentialBrokerGrpc.CredentialBrokerBlockingStub broker() {
    return broker(System.getenv("CREDBROKER_CAPABILITY"));
  }

  /** What a program needs at least. */
  String accessToken(String provider) {
    return broker()
        .withDeadlineAfter(20, TimeUnit.SECONDS)
        .getToken(GetTokenRequest.newBuilder().setProvider(provider).build())
        .getToken()
        .getAccessToken();
  }

  /** Why a call failed. Decide by the reason, never by the status code or the message. */
  static ErrorInfo errorInfo(StatusRuntimeException error) throws InvalidProtocolBufferException {
    for (var detail : StatusProto.fromThrowable(error).getDetailsList()) {
      if (detail.is(ErrorInfo.class)) {
        return detail.unpack(ErrorInfo.class);
      }
    }
    return ErrorInfo.getDefaultInstance();
  }

  @Override
  public void close() {
    channel.shutdownNow();
    events.shutdownGracefully(0, 1, TimeUnit.SECONDS).syncUninterruptibly();
  }
}
