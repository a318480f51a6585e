// A credbroker client in JavaScript: the .proto file as it is, a plain channel, and how to read an error.
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';
import { getProtoPath } from 'google-proto-files';

const options = { keepCase: true, longs: String, enums: String, defaults: true, oneofs: true };

export function load(file, ...includeDirs) {
  return loader.loadSync(file, { ...options, includeDirs });
}

const { CredentialBroker } = grpc.loadPackageDefinition(
  load('credbroker/v1/credential_broker.proto', process.env.PROTO_DIR),
).credbroker.v1;

export const target = 'unix:' + process.env.CREDBROKER_SOCKET;

export function connect() {
  return new CredentialBroker(target, grpc.credentials.createInsecure());
}

// What every call carries.
export function capability(value = process.env.CREDBROKER_CAPABILITY) {
  const metadata = new grpc.Metadata();
  metadata.set('authorization', `Bearer ${value}`);
  return metadata;
}

// One call as a promise.
export function call(client, method, request, { metadata = capability(), deadline = Date.now() + 20_000 } = {}) {
  return new Promise((resolve, reject) => {
    client[method](request, metadata, { deadline }, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

const google = load('google/rpc/error_details.proto', getProtoPath('..'));
const { 'google.rpc.Status': Status } = load('google/rpc/status.proto', getProtoPath('..'));

// The details of a failed call by their type: { 'google.rpc.ErrorInfo': { reason, domain, metadata }, ... }. Decide by
// `reason`, never by the status code or the message.
export function details(error) {
  const found = {};
  for (const bytes of error.metadata.get('grpc-status-details-bin')) {
    for (const any of Status.deserialize(bytes).details) {
      const name = any.type_url.split('/').pop();
      found[name] = google[name].deserialize(any.value);
    }
  }
  return found;
}
