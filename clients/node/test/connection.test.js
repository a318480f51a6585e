// Where there is no broker, or not any more; what gives up; what is never shown.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { test } from 'node:test';
import { format, inspect } from 'node:util';
import {
  Broker,
  ConfigurationError,
  ConnectionError,
  CredbrokerError,
  UnauthenticatedError,
  UnavailableError,
} from 'credbroker';
import { Authority } from './authority.js';
import { failure, until, World } from './world.js';

/** Runs with other variables. */
function environment(t, variables) {
  const before = { ...process.env };
  t.after(() => {
    process.env = before;
  });
  process.env = { ...before, ...variables };
  for (const [name, value] of Object.entries(variables)) if (value === undefined) delete process.env[name];
}

test('nothing says where the broker is', (t) => {
  environment(t, { CREDBROKER_SOCKET: undefined, CREDBROKER_CAPABILITY: undefined });
  for (const socket of [undefined, '']) {
    assert.throws(
      () => new Broker({ socket }),
      (error) => error instanceof ConfigurationError && error.reason === 'NOT_CONFIGURED' && !error.transient,
    );
  }
  assert.throws(() => new Broker(), /CREDBROKER_SOCKET is not set.*credbroker run --allow/);
});

test('a malformed capability is not sent, and not shown', (t) => {
  for (const capability of ['', 'beef', `${'0'.repeat(63)}\n`, 'secret'.repeat(20)]) {
    assert.throws(
      () => new Broker({ socket: '/nowhere', capability }),
      (error) => {
        assert.ok(error instanceof ConfigurationError);
        assert.match(error.message, /capability must be 64 hexadecimal digits/);
        assert.ok(!inspect(error).includes('secretsecret'));
        return true;
      },
    );
  }
  environment(t, { CREDBROKER_SOCKET: '/nowhere', CREDBROKER_CAPABILITY: 'beef' });
  assert.throws(() => new Broker(), /CREDBROKER_CAPABILITY must be/);
});

test('the environment says where the broker is, and its capability goes nowhere else', async (t) => {
  const world = await World.make(t);
  await world.store('acme', { access_token: 'one', expires_in: 60 });
  await world.serve();
  environment(t, { CREDBROKER_SOCKET: world.socket, CREDBROKER_CAPABILITY: world.capability });
  const [broker, other] = [new Broker(), new Broker({ socket: world.socket })];
  t.after(() => [broker, other].forEach((each) => each.close()));
  assert.equal((await broker.getToken('acme')).value, 'one');
  assert.ok((await failure(other.getToken('acme'))) instanceof UnauthenticatedError);
});

test('nobody listens', async (t) => {
  const world = await World.make(t);
  await world.serve();
  await world.stop('SIGKILL');
  for (const socket of [world.socket, '/nowhere/at/all']) {
    const broker = world.broker(t, { socket });
    for (const promise of [broker.getToken('acme'), broker.tokenSource('acme').get(), broker.watchToken('acme').next()]) {
      const error = await failure(promise);
      assert.ok(error instanceof ConnectionError, inspect(error));
      assert.deepEqual([error.reason, error.code, error.transient], ['CANNOT_CONNECT', 'UNAVAILABLE', true]);
      assert.ok(error.message.includes(socket), error.message);
      assert.match(error.message, /\((ENOENT|ECONNREFUSED)\)\. Ensure the sandbox was started correctly/);
    }
  }
});

test('a path that is too long reaches nobody else', async (t) => {
  const world = await World.make(t);
  const longest = process.platform === 'linux' ? 107 : 103;
  const server = createServer(() => assert.fail('connected'));
  const path = world.socket.padEnd(longest, 'x');
  server.listen(path);
  await once(server, 'listening');
  t.after(() => server.close());
  assert.throws(() => world.broker(t, { socket: `${path}x` }), (error) => {
    assert.ok(error instanceof ConfigurationError);
    return error.message.includes(`${longest} bytes`);
  });
});

test('calls find the next broker after the one that stopped', async (t) => {
  const world = await World.make(t);
  await world.store('acme', { access_token: 'one', expires_in: 60 });
  const broker = world.broker(t);
  for (const [signal, asked] of [
    ['SIGTERM', false],
    ['SIGKILL', true],
    ['SIGTERM', true],
    ['SIGKILL', false],
  ]) {
    await world.serve();
    assert.equal((await broker.getToken('acme')).value, 'one');
    await world.stop(signal);
    if (asked) assert.ok((await failure(broker.getToken('acme'))) instanceof ConnectionError);
  }
});

test('a broker that ends under a call', async (t) => {
  const authority = await Authority.start(t);
  const world = await World.make(t, authority.config('acme'));
  authority.mode = 'hang';
  await world.store('acme', authority.tokens(0));
  await world.serve();
  const broker = world.broker(t);
  const call = failure(broker.getToken('acme'));
  const watch = failure(broker.watchToken('acme').next());
  await until('the provider is asked', () => authority.refreshes > 0);
  await world.stop('SIGKILL');
  for (const error of [await call, await watch]) {
    assert.ok(error instanceof ConnectionError, inspect(error));
    assert.deepEqual([error.reason, error.transient], ['CONNECTION_LOST', true]);
  }
});

test('a broker that stops says so to who watches', async (t) => {
  const world = await World.make(t);
  await world.store('acme', { access_token: 'one', expires_in: 60 });
  await world.serve();
  const watch = world.broker(t).watchToken('acme');
  assert.equal((await watch.next()).value.value, 'one');
  await world.stop();
  const error = await failure(watch.next());
  assert.ok(error instanceof UnavailableError, inspect(error));
  assert.deepEqual([error.reason, error.code, error.transient], ['SHUTTING_DOWN', 'UNAVAILABLE', true]);
});

test('what listens is no broker', async (t) => {
  const server = createServer((socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n').on('error', () => {}));
  const world = await World.make(t);
  server.listen(world.socket);
  await once(server, 'listening');
  t.after(() => server.close());
  const error = await failure(world.broker(t, { timeoutMs: 5000 }).getToken('acme'));
  assert.ok(error instanceof CredbrokerError, inspect(error));
  assert.equal(error.reason, 'CONNECTION_LOST');
});

test('a broker that does not answer, and a caller that gives up', async (t) => {
  const server = createServer(() => {});
  const world = await World.make(t);
  server.listen(world.socket);
  await once(server, 'listening');
  t.after(() => server.close());
  const broker = world.broker(t);
  const late = await failure(broker.getToken('acme', { timeoutMs: 100 }));
  assert.ok(late instanceof UnavailableError, inspect(late));
  assert.equal(late.reason, 'DEADLINE_EXCEEDED');
  const reason = new Error('enough');
  const stop = new AbortController();
  const calls = ['getToken', 'refreshToken', 'listBuckets'].map((name) => failure(broker[name]('acme', { signal: stop.signal })));
  const watch = failure(broker.watchToken('acme', { signal: stop.signal }).next());
  stop.abort(reason);
  assert.deepEqual(await Promise.all([...calls, watch]), [reason, reason, reason, reason]);
  assert.equal(await failure(broker.getToken('acme', { signal: stop.signal })), reason);
});

test('the time and the patience of one call', async (t) => {
  const authority = await Authority.start(t);
  const world = await World.make(t, authority.config('acme'));
  authority.mode = 'hang';
  await world.store('acme', authority.tokens(0));
  await world.serve();
  const broker = world.broker(t);
  await broker.serverInfo();
  assert.equal((await failure(broker.getToken('acme', { timeoutMs: 200 }))).reason, 'DEADLINE_EXCEEDED');
  const [stop, begun] = [new AbortController(), performance.now()];
  const call = failure(broker.getToken('acme', { signal: stop.signal }));
  stop.abort();
  assert.equal((await call).name, 'AbortError');
  assert.ok(performance.now() - begun < 5000, 'it waited for the answer');
  assert.deepEqual(await broker.listProviders(), ['acme'], 'the connection is good');
  for (const timeoutMs of [0, -1, NaN, Infinity, 2 ** 31]) {
    const error = await failure(broker.getToken('acme', { timeoutMs }));
    assert.deepEqual([error.reason, error.metadata.field], ['INVALID_REQUEST', 'timeoutMs']);
    assert.throws(() => world.broker(t, { timeoutMs }), { reason: 'INVALID_REQUEST' });
  }
  // The broker went on.
  authority.release();
  assert.equal((await broker.getToken('acme')).value, authority.newest);
});

test('closing ends what is under way', async (t) => {
  const authority = await Authority.start(t);
  const world = await World.make(t, authority.config('acme'));
  authority.mode = 'hang';
  await world.store('acme', authority.tokens(0));
  await world.serve();
  const broker = world.broker(t);
  const calls = [broker.getToken('acme'), broker.watchToken('acme').next(), broker.tokenSource('acme').get()].map(failure);
  await until('the provider is asked', () => authority.refreshes > 0);
  broker.close();
  const errors = await Promise.all(calls);
  assert.deepEqual(errors.map((error) => [error.reason, error.transient]), Array(3).fill(['CLOSED', false]));
});

test('a watch that is left early ends at the broker', async (t) => {
  const world = await World.make(t);
  await world.store('acme', { access_token: 'one', expires_in: 60 });
  await world.serve();
  const broker = world.broker(t);
  // 64 streams may be open at once on a connection.
  for (let again = 0; again < 100; again++) {
    for await (const token of broker.watchToken('acme')) {
      assert.equal(token.value, 'one');
      break;
    }
  }
});

test('saving and removing, with the right to', async (t) => {
  const world = await World.make(t);
  await world.store('acme', { access_token: 'one', expires_in: 60 });
  await world.serve('--allow', 'acme', '--allow-save', 'acme', '--allow-remove', 'acme');
  const broker = world.broker(t);
  await broker.saveToken('acme', { value: 'two', expiresIn: 600, scope: 'a b' });
  const token = await broker.getToken('acme');
  assert.deepEqual([token.value, token.tokenType, token.scope], ['two', 'Bearer', 'a b']);
  assert.ok(token.expiresIn > 500 && token.expiresIn <= 600);
  assert.equal(await broker.removeToken('acme'), 'not_supported');
  assert.equal((await failure(broker.getToken('acme'))).reason, 'NOT_FOUND');
});

test('a token that does not expire', async (t) => {
  const world = await World.make(t);
  await world.store('acme', { access_token: 'one' });
  await world.serve();
  const token = await world.broker(t).getToken('acme');
  assert.deepEqual([token.expiresIn, token.expireTime, token.usable], [Infinity, undefined, true]);
  assert.equal(JSON.parse(JSON.stringify(token)).expireTime, null);
});

test('no way of printing shows a secret', async (t) => {
  const world = await World.make(t);
  const secret = `secret_${randomBytes(16).toString('hex')}`;
  await world.store('acme', { access_token: secret, expires_in: 60 });
  await world.host(['key', 'set', 'openai'], secret);
  await world.serve('--allow', 'acme', '--allow-key', 'openai');
  const broker = world.broker(t);
  const source = broker.tokenSource('acme');
  const [token, key] = [await source.get(), await broker.getApiKey('openai')];
  assert.deepEqual([token.value, key.value], [secret, secret]);
  const refused = await failure(broker.getToken('gitlab'));
  const wrong = 'f'.repeat(64);
  const unknown = await failure(world.broker(t, { capability: wrong }).getToken('acme'));
  await world.stop();
  const unreachable = await failure(broker.getToken('acme'));
  const all = { token, key, source, broker, refused, unknown, unreachable };
  const everything = { showHidden: true, getters: false, depth: Infinity };
  for (const [name, value] of Object.entries(all)) {
    const said = [
      String(value),
      `${value}`,
      format('%s %o %O %j', value, value, value, value),
      inspect(value, everything),
      inspect({ value }, everything),
      JSON.stringify({ value }),
      JSON.stringify({ ...value }),
      JSON.stringify(Object.getOwnPropertyDescriptors(value)),
      value.stack ?? '',
    ].join('\n');
    for (const hidden of [secret, world.capability, wrong]) assert.ok(!said.includes(hidden), `${name}: ${said}`);
  }
  assert.equal(String(token), 'AccessToken(redacted)');
  assert.equal(String(key), 'ApiKey(redacted)');
  assert.deepEqual(Object.keys(JSON.parse(JSON.stringify(token))), ['tokenType', 'scope', 'revision', 'expireTime']);
});
