import com.google.protobuf.ByteString;
import com.google.protobuf.Empty;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import credbroker.v1.CredentialBrokerGrpc;
import credbroker.v1.CredentialBrokerOuterClass;
import credbroker.v1.CredentialBrokerOuterClass.AccessToken;
import credbroker.v1.CredentialBrokerOuterClass.GetApiKeyRequest;
import credbroker.v1.CredentialBrokerOuterClass.GetTokenRequest;
import credbroker.v1.CredentialBrokerOuterClass.ListApiKeysRequest;
import credbroker.v1.CredentialBrokerOuterClass.ListBucketsRequest;
import credbroker.v1.CredentialBrokerOuterClass.ListProvidersRequest;
import io.grpc.CallOptions;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.health.v1.HealthCheckRequest;
import io.grpc.health.v1.HealthCheckResponse.ServingStatus;
import io.grpc.health.v1.HealthGrpc;
import io.grpc.protobuf.ProtoUtils;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.ClientCalls;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;

/** Every line of checks.txt. */
public final class Checks {
  private static boolean failed;

  private interface Check {
    void run() throws Exception;
  }

  private static void check(String name, Check check) {
    try {
      check.run();
      System.out.println("ok " + name);
    } catch (Exception | AssertionError error) {
      failed = true;
      error.printStackTrace();
      System.out.println("not ok " + name + ": " + error.toString().replace('\n', ' '));
    }
  }

  private static void same(Object got, Object want) {
    if (!want.equals(got)) {
      throw new AssertionError("got " + got + ", not " + want);
    }
  }

  private static com.google.rpc.Status refused(
      Callable<?> call, Status.Code code, String reason, Map<String, String> metadata) throws Exception {
    try {
      throw new AssertionError("it was answered: " + call.call());
    } catch (StatusRuntimeException error) {
      com.google.rpc.Status status = StatusProto.fromThrowable(error);
      same(error.getStatus().getCode(), code);
      same(error.getStatus().getDescription(), status.getMessage());
      same(status.getDetailsList().stream().filter(detail -> detail.is(ErrorInfo.class)).count(), 1L);
      ErrorInfo info = Client.errorInfo(error);
      same(info.getReason(), reason);
      same(info.getDomain(), "credbroker.dev");
      same(info.getMetadataMap(), metadata);
      return status;
    }
  }

  private static GetTokenRequest token(String provider) {
    return GetTokenRequest.newBuilder().setProvider(provider).build();
  }

  private static GetApiKeyRequest key(String name) {
    return GetApiKeyRequest.newBuilder().setName(name).build();
  }

  public static void main(String[] arguments) {
    try (Client client = new Client()) {
      run(client);
    }
    System.exit(failed ? 1 : 0);
  }

  private static void run(Client client) {
    var broker = client.broker();
    check("token", () -> {
      AccessToken got = broker.getToken(token("github")).getToken();
      same(List.of(got.getAccessToken(), got.getTokenType(), got.getScope()), List.of("gho_demo", "bearer", "repo"));
      long left = got.getExpiresIn().getSeconds();
      same(left > 3000 && left < 3600, true);
      same(Math.abs(got.getExpireTime().getSeconds() - Instant.now().getEpochSecond() - left) < 60, true);
      same(got.getRevision().isEmpty(), false);
    });
    check("api key", () -> same(broker.getApiKey(key("openai")).getApiKey(), "sk-demo"));
    check("no refresh token", () -> {
      ByteString answer = broker.getToken(token("github")).toByteString();
      same(answer.toString(java.nio.charset.StandardCharsets.ISO_8859_1).contains("ghr_never"), false);
      var messages = CredentialBrokerOuterClass.getDescriptor().getMessageTypes();
      same(messages.stream().flatMap(m -> m.getFields().stream()).anyMatch(f -> f.getName().contains("refresh")), false);
    });
    check("lists", () -> {
      same(List.copyOf(broker.listProviders(ListProvidersRequest.getDefaultInstance()).getProvidersList()), List.of("github"));
      var buckets = ListBucketsRequest.newBuilder().setProvider("github").build();
      same(List.copyOf(broker.listBuckets(buckets).getBucketsList()), List.of("default"));
      same(List.copyOf(broker.listApiKeys(ListApiKeysRequest.getDefaultInstance()).getNamesList()), List.of("openai"));
    });
    check("outside the policy", () -> {
      var at = Map.of("provider", "gitlab", "bucket", "default");
      refused(() -> broker.getToken(token("gitlab")), Status.Code.PERMISSION_DENIED, "UNAUTHORIZED", at);
      var name = Map.of("name", "anthropic");
      refused(() -> broker.getApiKey(key("anthropic")), Status.Code.PERMISSION_DENIED, "UNAUTHORIZED", name);
    });
    check("outside the policy and not stored", () -> {
      var at = Map.of("provider", "nowhere", "bucket", "default");
      refused(() -> broker.getToken(token("nowhere")), Status.Code.PERMISSION_DENIED, "UNAUTHORIZED", at);
    });
    check("no capability", () -> {
      var bare = CredentialBrokerGrpc.newBlockingStub(client.channel);
      refused(() -> bare.getToken(token("github")), Status.Code.UNAUTHENTICATED, "UNAUTHENTICATED", Map.of());
    });
    check("wrong capability", () -> {
      var other = client.broker("0".repeat(64));
      refused(() -> other.getToken(token("github")), Status.Code.UNAUTHENTICATED, "UNAUTHENTICATED", Map.of());
    });
    check("not found", () -> {
      var at = Map.of("provider", "absent", "bucket", "default");
      refused(() -> broker.getToken(token("absent")), Status.Code.NOT_FOUND, "NOT_FOUND", at);
      refused(() -> broker.getApiKey(key("absent")), Status.Code.NOT_FOUND, "NOT_FOUND", Map.of("name", "absent"));
    });
    check("invalid request", () -> {
      var status = refused(
          () -> broker.getToken(token("../etc")), Status.Code.INVALID_ARGUMENT, "INVALID_REQUEST", Map.of("field", "provider"));
      for (var detail : status.getDetailsList()) {
        if (detail.is(BadRequest.class)) {
          var violations = detail.unpack(BadRequest.class).getFieldViolationsList();
          same(violations.size(), 1);
          same(violations.get(0).getField(), "provider");
          same(violations.get(0).getDescription().isEmpty(), false);
          return;
        }
      }
      throw new AssertionError("no BadRequest: " + status);
    });
    check("unknown method", () -> {
      var empty = ProtoUtils.marshaller(Empty.getDefaultInstance());
      var nothing = MethodDescriptor.newBuilder(empty, empty)
          .setType(MethodDescriptor.MethodType.UNARY)
          .setFullMethodName("credbroker.v1.CredentialBroker/Nothing")
          .build();
      refused(
          () -> ClientCalls.blockingUnaryCall(broker.getChannel(), nothing, CallOptions.DEFAULT, Empty.getDefaultInstance()),
          Status.Code.UNIMPLEMENTED, "UNIMPLEMENTED", Map.of());
    });
    check("deadline passed", () -> {
      try {
        throw new AssertionError(broker.withDeadlineAfter(-1, TimeUnit.MILLISECONDS).getToken(token("github")));
      } catch (StatusRuntimeException error) {
        same(error.getStatus().getCode(), Status.Code.DEADLINE_EXCEEDED);
      }
    });
    check("deadline kept", () -> broker.withDeadlineAfter(5, TimeUnit.SECONDS).getToken(token("github")));
    check("calls in parallel", () ->
        IntStream.range(0, 20).parallel().forEach(i -> same(client.accessToken("github"), "gho_demo")));
    check("second channel", () -> {
      try (Client second = new Client()) {
        same(second.accessToken("github"), "gho_demo");
      }
    });
    check("health", () -> {
      var health = HealthGrpc.newBlockingStub(client.channel);
      for (String service : List.of("", "credbroker.v1.CredentialBroker")) {
        var answer = health.check(HealthCheckRequest.newBuilder().setService(service).build());
        same(answer.getStatus(), ServingStatus.SERVING);
      }
    });
  }
}
