// In the sandbox that `credbroker run` made: see README.md, "Tests".
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  authorizedFetch,
  Broker,
  InvalidRequestError,
  NotFoundError,
  UnauthenticatedError,
  UnauthorizedError,
} from 'credbroker';
import { failure } from './world.js';

const resource = process.env.TEST_RESOURCE_URL;
assert.ok(resource && process.env.CREDBROKER_SOCKET, 'CREDBROKER_SOCKET and TEST_RESOURCE_URL must be set');

function fromEnvironment(t) {
  const broker = new Broker();
  t.after(() => broker.close());
  return broker;
}

function refusal(error, Class, reason, code, metadata) {
  assert.ok(error instanceof Class, String(error));
  assert.deepEqual(
    { reason: error.reason, code: error.code, metadata: { ...error.metadata }, name: error.name },
    { reason, code, metadata, name: Class.name },
  );
  assert.notEqual(error.message, '');
  assert.equal(error.transient, false);
}

test('a token has all that the host says of it', async (t) => {
  const token = await fromEnvironment(t).getToken('github');
  assert.equal(token.value, 'gho_demo');
  assert.equal(token.authorization, 'Bearer gho_demo');
  assert.deepEqual([token.tokenType, token.scope], ['bearer', 'repo']);
  assert.ok(token.expiresIn > 3000 && token.expiresIn < 3600, `${token.expiresIn}`);
  assert.ok(Math.abs(token.expireTime - Date.now() - token.expiresIn * 1000) < 60_000);
  assert.notEqual(token.revision, '');
  assert.equal(token.usable, true);
});

test('a key has its value', async (t) => {
  const key = await fromEnvironment(t).getApiKey('openai');
  assert.deepEqual([key.name, key.value], ['openai', 'sk-demo']);
});

test('lists show what is allowed and stored', async (t) => {
  const broker = fromEnvironment(t);
  assert.deepEqual(await broker.listProviders(), ['acme', 'github']);
  assert.deepEqual(await broker.listBuckets('github'), ['default']);
  assert.deepEqual(await broker.listApiKeys(), ['openai']);
});

test('statistics count deliveries', async (t) => {
  const broker = fromEnvironment(t);
  const before = await broker.getBucketStats('github');
  await broker.getToken('github');
  const after = await broker.getBucketStats('github');
  assert.equal(after.requestCount, before.requestCount + 1);
  assert.deepEqual([after.bucket, after.percentage], ['default', 100]);
  assert.ok(Math.abs(after.lastUsed - Date.now()) < 60_000);
});

test('the broker says its version', async (t) => {
  const info = await fromEnvironment(t).serverInfo();
  assert.equal(info.version, 1);
  assert.match(info.serverVersion, /^\d+\.\d+\.\d+/);
  assert.ok(Array.isArray(info.features));
});

test('what is not allowed is UNAUTHORIZED, stored or not', async (t) => {
  const broker = fromEnvironment(t);
  for (const provider of ['gitlab', 'nowhere']) {
    const at = { provider, bucket: 'default' };
    refusal(await failure(broker.getToken(provider)), UnauthorizedError, 'UNAUTHORIZED', 'PERMISSION_DENIED', at);
    const source = broker.tokenSource(provider);
    refusal(await failure(source.get()), UnauthorizedError, 'UNAUTHORIZED', 'PERMISSION_DENIED', at);
  }
  const key = await failure(broker.getApiKey('anthropic'));
  refusal(key, UnauthorizedError, 'UNAUTHORIZED', 'PERMISSION_DENIED', { name: 'anthropic' });
  const saved = await failure(broker.saveToken('github', { value: 'x', expiresIn: 60 }));
  assert.equal(saved.reason, 'UNAUTHORIZED');
  assert.equal((await failure(broker.removeToken('github'))).reason, 'UNAUTHORIZED');
});

test('what is stored nowhere is NOT_FOUND', async (t) => {
  const broker = fromEnvironment(t);
  const at = { provider: 'absent', bucket: 'default' };
  refusal(await failure(broker.getToken('absent')), NotFoundError, 'NOT_FOUND', 'NOT_FOUND', at);
  refusal(await failure(broker.tokenSource('absent').get()), NotFoundError, 'NOT_FOUND', 'NOT_FOUND', at);
  refusal(await failure(broker.getApiKey('absent')), NotFoundError, 'NOT_FOUND', 'NOT_FOUND', { name: 'absent' });
  const watched = await failure(broker.watchToken('absent').next());
  refusal(watched, NotFoundError, 'NOT_FOUND', 'NOT_FOUND', at);
});

test('a wrong argument is INVALID_REQUEST, and says which', async (t) => {
  const broker = fromEnvironment(t);
  for (const [call, field] of [
    [() => broker.getToken('../etc'), 'provider'],
    [() => broker.getToken('github', { bucket: 'a/b' }), 'bucket'],
    [() => broker.getToken('github', { minValidity: -1 }), 'min_validity'],
    [() => broker.getToken('github', { minValidity: NaN }), 'min_validity'],
    [() => broker.tokenSource('../etc').get(), 'provider'],
    [() => broker.getApiKey(''), 'name'],
  ]) {
    const error = await failure(call());
    refusal(error, InvalidRequestError, 'INVALID_REQUEST', 'INVALID_ARGUMENT', { field });
    assert.equal(error.violations.length, 1);
    assert.equal(error.violations[0].field, field);
    assert.notEqual(error.violations[0].description, '');
  }
});

test('a wrong and a missing capability are UNAUTHENTICATED', async (t) => {
  for (const capability of ['0'.repeat(64), undefined]) {
    const broker = new Broker({ socket: process.env.CREDBROKER_SOCKET, capability });
    t.after(() => broker.close());
    refusal(await failure(broker.getToken('github')), UnauthenticatedError, 'UNAUTHENTICATED', 'UNAUTHENTICATED', {});
  }
});

test('five hundred calls and asks at once', async (t) => {
  const broker = fromEnvironment(t);
  const source = broker.tokenSource('github');
  const calls = Array.from({ length: 50 }, () => broker.getToken('github'));
  const asks = Array.from({ length: 450 }, () => source.get());
  const tokens = await Promise.all([...calls, ...asks]);
  assert.deepEqual(new Set(tokens.map((token) => token.value)), new Set(['gho_demo']));
  assert.equal(source.streams, 1);
});

test('a source gives active tokens only, through all rotations, by one stream', async (t) => {
  const seconds = Number(process.env.TEST_SECONDS ?? 60);
  const source = fromEnvironment(t).tokenSource('acme');
  let sent = 0;
  const counted = (...request) => {
    sent++;
    return fetch(...request);
  };
  const get = authorizedFetch(source, { fetch: counted });
  const revisions = new Set();
  let asked = 0;
  const end = performance.now() + seconds * 1000;
  while (performance.now() < end) {
    const token = await source.get();
    revisions.add(token.revision);
    const plain = await fetch(resource, { headers: { authorization: token.authorization } });
    assert.equal(plain.status, 200);
    assert.deepEqual(await plain.json(), { active: true });
    const authorized = await get(resource);
    assert.equal(authorized.status, 200);
    assert.deepEqual(await authorized.json(), { active: true });
    asked++;
    await sleep(50);
  }
  t.diagnostic(`${asked} asks, ${revisions.size} revisions`);
  assert.ok(revisions.size >= seconds / 5, `${revisions.size} revisions in ${seconds} s`);
  assert.equal(source.streams, 1);
  assert.equal(sent, asked, 'a request was sent twice');
});
