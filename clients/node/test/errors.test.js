// Every reason, and those of a broker that is newer than this package: a server on a socket that says what a broker would.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http2';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import * as credbroker from 'credbroker';
import { failure } from './world.js';

const CODES = { INVALID_ARGUMENT: 3, NOT_FOUND: 5, FAILED_PRECONDITION: 9, UNAVAILABLE: 14 };

// Class by class, as README.md has them; and what may succeed later by itself.
const CLASSES = {
  NotFoundError: ['NOT_FOUND'],
  NeedsLoginError: ['NEEDS_LOGIN'],
  UnauthenticatedError: ['UNAUTHENTICATED'],
  UnauthorizedError: ['UNAUTHORIZED', 'PEER_NOT_ALLOWED'],
  InvalidRequestError: ['INVALID_REQUEST'],
  RateLimitedError: ['RATE_LIMITED'],
  UnavailableError: ['PROVIDER_UNAVAILABLE', 'LOCK_TIMEOUT', 'SHUTTING_DOWN', 'STORE_UNAVAILABLE', 'DEADLINE_EXCEEDED'],
  LoginError: ['EXCHANGE_FAILED', 'ACCESS_DENIED', 'SESSION_NOT_FOUND', 'SESSION_EXPIRED', 'SESSION_ALREADY_USED'],
  CredbrokerError: [
    'MESSAGE_TOO_LARGE',
    'UNIMPLEMENTED',
    'TOO_MANY_STREAMS',
    'TOO_MANY_SESSIONS',
    'UNKNOWN_VERSION',
    'PROVIDER_NOT_FOUND',
    'PROVIDER_REJECTED',
    'STORE_LOCKED',
    'STORE_CORRUPT',
    'INTERNAL_ERROR',
  ],
};
const TRANSIENT = [...CLASSES.RateLimitedError, ...CLASSES.UnavailableError, 'TOO_MANY_STREAMS', 'TOO_MANY_SESSIONS', 'STORE_LOCKED'];

// google.rpc.Status by hand: a field of bytes, and one that is a number below 128.
const bytes = (number, value) => {
  const content = Buffer.from(value);
  const length = content.length < 128 ? [content.length] : [(content.length & 127) | 128, content.length >> 7];
  return Buffer.concat([Buffer.from([(number << 3) | 2, ...length]), content]);
};
const number = (field, value) => Buffer.from([field << 3, value]);
const detail = (type, value) => bytes(3, Buffer.concat([bytes(1, `type.googleapis.com/google.rpc.${type}`), bytes(2, value)]));
const info = (reason, domain = 'credbroker.dev') =>
  detail(
    'ErrorInfo',
    Buffer.concat([bytes(1, reason), bytes(2, domain), bytes(3, Buffer.concat([bytes(1, 'provider'), bytes(2, 'acme')]))]),
  );

/** A client of a server that answers each call with the status. */
async function answering(t, status) {
  const dir = await mkdtemp(path.join(tmpdir(), 'cb-node-'));
  const server = createServer();
  const sessions = new Set();
  server.on('session', (session) => sessions.add(session));
  server.on('stream', (stream) => {
    const { code, details } = status;
    const trailers = { 'grpc-status': String(code), 'grpc-message': 'What%20to%20do' };
    if (details) {
      const all = Buffer.concat([number(1, code), bytes(2, 'What to do'), ...details]);
      trailers['grpc-status-details-bin'] = all.toString('base64').replace(/=+$/, '');
    }
    stream.respond({ ':status': 200, 'content-type': 'application/grpc', ...trailers }, { endStream: true });
  });
  const socket = path.join(dir, 'sock');
  server.listen(socket);
  await once(server, 'listening');
  const broker = new credbroker.Broker({ socket });
  t.after(async () => {
    broker.close();
    for (const session of sessions) session.destroy();
    server.close();
    await rm(dir, { recursive: true });
  });
  return broker;
}

test('each reason has its class', async (t) => {
  const status = {};
  const broker = await answering(t, status);
  let reasons = 0;
  for (const [name, those] of Object.entries(CLASSES)) {
    for (const reason of those) {
      Object.assign(status, { code: CODES.FAILED_PRECONDITION, details: [info(reason)] });
      const error = await failure(broker.getToken('acme'));
      assert.equal(error.constructor, credbroker[name], reason);
      assert.ok(error instanceof credbroker.CredbrokerError && error instanceof Error);
      assert.deepEqual([error.reason, error.code, error.message], [reason, 'FAILED_PRECONDITION', 'What to do']);
      assert.equal(error.transient, TRANSIENT.includes(reason), reason);
      reasons++;
    }
  }
  assert.equal(reasons, 27);
});

test('a reason that is not known is kept, with all that came with it', async (t) => {
  const retry = detail('RetryInfo', bytes(1, Buffer.concat([number(1, 1), Buffer.from([2 << 3, 0x80, 0xca, 0xb5, 0xee, 0x01])])));
  for (const [code, transient] of [['UNAVAILABLE', true], ['FAILED_PRECONDITION', false]]) {
    const broker = await answering(t, { code: CODES[code], details: [info('FROM_THE_FUTURE'), retry] });
    const error = await failure(broker.getToken('acme'));
    assert.equal(error.constructor, credbroker.CredbrokerError);
    const { reason, message, metadata, retryAfter } = error;
    assert.deepEqual({ reason, message, metadata: { ...metadata }, retryAfter, code: error.code, transient: error.transient }, {
      reason: 'FROM_THE_FUTURE',
      message: 'What to do',
      metadata: { provider: 'acme' },
      retryAfter: 1.5,
      code,
      transient,
    });
  }
});

test('what is no answer of a broker has no reason of its', async (t) => {
  for (const details of [undefined, [info('NOT_FOUND', 'elsewhere.example')]]) {
    const error = await failure((await answering(t, { code: CODES.NOT_FOUND, details })).getToken('acme'));
    assert.deepEqual([error.reason, error.code, error.message], ['UNKNOWN', 'NOT_FOUND', 'What to do']);
  }
});
