// Token sources against brokers that stop, start, and lose what they had.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ConnectionError, NeedsLoginError, NotFoundError, UnavailableError } from 'credbroker';
import { Authority } from './authority.js';
import { failure, until, World } from './world.js';

/** A token set that cannot be renewed. */
const set = (access_token, expires_in) => ({ access_token, token_type: 'Bearer', expires_in });

test('a new token comes by itself', async (t) => {
  const world = await World.make(t);
  await world.store('acme', set('one', 3600));
  await world.serve();
  const source = world.broker(t).tokenSource('acme');
  assert.equal(source.current, undefined);
  assert.equal((await source.get()).value, 'one');
  await world.store('acme', set('two', 3600));
  await until('the new token is there, and nobody asked', () => source.current.value === 'two');
  assert.equal((await source.get()).value, 'two');
  assert.equal(source.streams, 1);
});

for (const signal of ['SIGTERM', 'SIGKILL']) {
  test(`a source goes on through a broker's end by ${signal} and the next one's start`, async (t) => {
    const world = await World.make(t);
    await world.store('acme', set('zero', 3600));
    await world.serve();
    const source = world.broker(t).tokenSource('acme');
    await source.get();
    await world.store('acme', set('one', 3600));
    await until('the stream is open', () => source.current.value === 'one');
    await world.stop(signal);
    await until('the stream was tried again', () => source.streams > 1);
    assert.equal((await source.get()).value, 'one');
    await world.store('acme', set('two', 3600));
    await world.serve();
    await until('the next broker is followed', () => source.current.value === 'two');
  });
}

test('while the broker is away a token is served until it expires, and never longer', async (t) => {
  const world = await World.make(t);
  await world.store('acme', set('one', 4));
  await world.serve();
  const source = world.broker(t).tokenSource('acme');
  const expires = (await source.get()).expireTime.getTime();
  await world.stop('SIGKILL');
  let served = 0;
  let error;
  while (error === undefined) {
    try {
      assert.equal((await source.get()).value, 'one');
      assert.ok(Date.now() < expires, 'an expired token was served');
      served++;
    } catch (caught) {
      error = caught;
    }
    await sleep(20);
  }
  assert.ok(served > 10, `${served}`);
  assert.ok(error instanceof ConnectionError, String(error));
  assert.deepEqual([error.reason, error.transient], ['CANNOT_CONNECT', true]);
  assert.ok(Date.now() > expires - 1000, 'a good token was not served');
  assert.equal(source.current, undefined);

  await world.store('acme', set('two', 3600));
  await world.serve();
  const { streams } = source;
  assert.equal((await source.get()).value, 'two');
  // The answer says that the broker is there: the stream waits no longer.
  await until('the stream is opened', () => source.streams > streams, 300);
});

test('a clock that is set back, or stopped during a suspend, prolongs no token', async (t) => {
  const world = await World.make(t);
  await world.store('acme', set('one', 600));
  await world.serve();
  const source = world.broker(t).tokenSource('acme');
  const token = await source.get();
  const { now: wall } = Date;
  const monotonic = performance.now.bind(performance);

  t.mock.method(Date, 'now', () => wall() - 86_400_000);
  assert.ok(token.usable && token.expiresIn <= 600, 'the wall clock was set back');
  t.mock.method(performance, 'now', () => monotonic() + 594_000);
  assert.ok(token.usable && token.expiresIn < 7);
  t.mock.method(performance, 'now', () => monotonic() + 596_000);
  assert.ok(!token.usable && token.expiresIn > 0, 'less than 5 s are left');
  assert.equal(source.current, undefined);

  t.mock.method(performance, 'now', monotonic);
  t.mock.method(Date, 'now', () => wall() + 601_000);
  assert.deepEqual([token.usable, token.expiresIn], [false, 0], 'the monotonic clock stopped');
  // The broker knows better than a clock that was set.
  assert.equal((await source.get()).value, 'one');
});

test('a token that is removed is NOT_FOUND at once, and what is stored later is found', async (t) => {
  const world = await World.make(t);
  await world.store('acme', set('one', 3600));
  await world.serve();
  const source = world.broker(t).tokenSource('acme');
  await source.get();
  await world.host(['logout', 'acme']);
  await until('the stream says so', () => source.current === undefined);
  for (let again = 0; again < 2; again++) {
    const error = await failure(source.get());
    assert.ok(error instanceof NotFoundError, String(error));
  }
  await world.store('acme', set('two', 3600));
  assert.equal((await source.get()).value, 'two');
  await world.store('acme', set('three', 3600));
  await until('it is followed again', () => source.current.value === 'three');
});

test('a refused refresh token is NEEDS_LOGIN, and a login mends it', async (t) => {
  const authority = await Authority.start(t);
  const world = await World.make(t, authority.config('acme'));
  authority.mode = 'refuse';
  await world.store('acme', authority.tokens(0));
  await world.serve();
  const source = world.broker(t).tokenSource('acme');
  const error = await failure(source.get());
  assert.ok(error instanceof NeedsLoginError, String(error));
  assert.deepEqual([error.reason, error.code, error.transient], ['NEEDS_LOGIN', 'FAILED_PRECONDITION', false]);
  await world.store('acme', set('after the login', 3600));
  // The broker sees what another process stored within a second.
  const token = await until('the new token is there', () => source.get().catch(() => undefined), 3000);
  assert.equal(token.value, 'after the login');
});

test('a token that expires and cannot be renewed is NEEDS_LOGIN from then on', async (t) => {
  const world = await World.make(t);
  await world.store('acme', set('one', 2));
  await world.serve();
  const source = world.broker(t).tokenSource('acme');
  const token = await source.get();
  const error = await until('it is refused', () => source.get().then(() => undefined, (error) => error));
  assert.equal(token.usable, false);
  assert.ok(error instanceof NeedsLoginError, String(error));
});

test('a provider that is down is PROVIDER_UNAVAILABLE, until it is up', async (t) => {
  const authority = await Authority.start(t);
  const world = await World.make(t, authority.config('acme'));
  authority.mode = 'down';
  await world.store('acme', authority.tokens(0));
  await world.serve();
  const source = world.broker(t).tokenSource('acme');
  const error = await failure(source.get());
  assert.ok(error instanceof UnavailableError, String(error));
  assert.deepEqual([error.reason, error.code, error.transient], ['PROVIDER_UNAVAILABLE', 'UNAVAILABLE', true]);
  assert.ok(error.retryAfter > 0, `${error.retryAfter}`);
});

test('all who ask at once share one call and one refresh', async (t) => {
  const authority = await Authority.start(t);
  const world = await World.make(t, authority.config('acme'));
  await world.store('acme', authority.tokens(0));
  await world.serve();
  const broker = world.broker(t);
  const source = broker.tokenSource('acme');
  const tokens = await Promise.all(Array.from({ length: 300 }, () => source.get()));
  assert.equal(new Set(tokens).size, 1);
  assert.equal(tokens[0].value, authority.newest);
  assert.equal(authority.refreshes, 1);
  // One answer, and the first of the stream.
  const { requestCount } = await broker.getBucketStats('acme');
  assert.ok(requestCount <= 2, `${requestCount}`);
});

test('all whose token was refused share one refresh', async (t) => {
  const authority = await Authority.start(t);
  const world = await World.make(t, authority.config('acme'));
  await world.store('acme', authority.tokens());
  await world.serve();
  const source = world.broker(t).tokenSource('acme');
  const refused = await source.get();
  const tokens = await Promise.all(Array.from({ length: 300 }, () => source.refresh(refused)));
  assert.equal(authority.refreshes, 1);
  assert.notEqual(authority.newest, refused.value);
  assert.deepEqual(new Set(tokens.map((token) => token.value)), new Set([authority.newest]));
  assert.equal((await source.get()).value, authority.newest);
  // Who comes late with the old one gets the new one, and nobody is asked.
  await world.stop();
  assert.equal((await source.refresh(refused.revision)).value, authority.newest);
});

test('who gives up waiting stops nobody else', async (t) => {
  const authority = await Authority.start(t);
  const world = await World.make(t, authority.config('acme'));
  authority.mode = 'hang';
  await world.store('acme', authority.tokens(0));
  await world.serve();
  const source = world.broker(t).tokenSource('acme');
  const stop = new AbortController();
  const impatient = failure(source.get({ signal: stop.signal }));
  const patient = source.get();
  await until('the provider is asked', () => authority.refreshes > 0);
  const reason = new Error('enough');
  stop.abort(reason);
  assert.equal(await impatient, reason);
  assert.equal(await failure(source.get({ signal: stop.signal })), reason);
  authority.release();
  assert.equal((await patient).value, authority.newest);
});

test('a closed source and a closed broker say so', async (t) => {
  const world = await World.make(t);
  await world.store('acme', set('one', 3600));
  await world.serve();
  const broker = world.broker(t);
  const [first, second] = [broker.tokenSource('acme'), broker.tokenSource('acme')];
  await Promise.all([first.get(), second.get()]);
  first.close();
  assert.equal((await failure(first.get())).reason, 'CLOSED');
  assert.equal(first.current, undefined);
  assert.equal((await second.get()).value, 'one');
  broker.close();
  assert.equal((await failure(second.get())).reason, 'CLOSED');
  assert.equal((await failure(broker.getToken('acme'))).reason, 'CLOSED');
  assert.equal((await failure(broker.watchToken('acme').next())).reason, 'CLOSED');
  assert.equal((await failure(broker.tokenSource('acme').get())).reason, 'CLOSED');
});

test('more sources than a connection has streams for', async (t) => {
  const world = await World.make(t);
  await world.store('acme', set('one', 3600));
  await world.serve();
  const broker = world.broker(t);
  const sources = Array.from({ length: 100 }, () => broker.tokenSource('acme'));
  await Promise.all(sources.map((source) => source.get()));
  await world.store('acme', set('two', 3600));
  await until('each has the new token', () => sources.every((source) => source.current?.value === 'two'));
  assert.deepEqual(new Set(sources.map((source) => source.streams)), new Set([1]));
});

test('a source keeps no program alive', async (t) => {
  const world = await World.make(t);
  await world.store('acme', set('one', 3600));
  await world.serve();
  const program = `
    import { Broker } from 'credbroker';
    import { setTimeout as sleep } from 'node:timers/promises';
    const source = new Broker().tokenSource('acme');
    await source.get();
    await sleep(500);
    console.log((await source.get()).value, source.streams);`;
  const running = execFile(process.execPath, ['--input-type=module', '--eval', program], {
    cwd: new URL('.', import.meta.url),
    env: { ...process.env, CREDBROKER_SOCKET: world.socket, CREDBROKER_CAPABILITY: world.capability },
    timeout: 20_000,
  });
  const [out, [code]] = await Promise.all([new Response(running.stdout).text(), once(running, 'exit')]);
  assert.deepEqual([out, code], ['one 1\n', 0]);
});
