// Logins that a sandbox begins.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LoginError, UnauthorizedError } from 'credbroker';
import { Authority } from './authority.js';
import { failure, World } from './world.js';

async function house(t, flow, ...rights) {
  const authority = await Authority.start(t);
  const world = await World.make(t, authority.config('acme', flow));
  await world.serve('--allow', 'acme', ...rights);
  return { authority, broker: world.broker(t), world };
}

test('without the right to log in it is UNAUTHORIZED, and nothing is shown', async (t) => {
  const { broker } = await house(t, 'device_code');
  const error = await failure(broker.login('acme', { prompt: () => assert.fail('shown') }));
  assert.ok(error instanceof UnauthorizedError, String(error));
  assert.equal(error.reason, 'UNAUTHORIZED');
  assert.match(error.message, /--allow-login/);
});

test('a device code', async (t) => {
  const { authority, broker } = await house(t, 'device_code', '--allow-login', 'acme');
  const source = broker.tokenSource('acme');
  assert.equal((await failure(source.get())).reason, 'NOT_FOUND');
  const prompts = [];
  const token = await broker.login('acme', {
    prompt(prompt) {
      prompts.push(prompt);
      authority.device = 'yes';
    },
  });
  assert.equal(token.value, authority.newest);
  assert.equal((await source.get()).value, authority.newest);
  const [{ expireTime, ...prompt }, ...others] = prompts;
  assert.deepEqual(others, []);
  assert.deepEqual(prompt, {
    flow: 'device_code',
    verificationUrl: `${authority.url}/activate`,
    verificationUrlComplete: undefined,
    userCode: 'WDJB-MJHT',
  });
  assert.ok(expireTime > new Date());
});

test('a pasted code', async (t) => {
  const { authority, broker } = await house(t, 'pkce_redirect', '--allow-login', 'acme');
  const token = await broker.login('acme', {
    async prompt(prompt) {
      assert.equal(prompt.flow, 'pkce_redirect');
      return authority.agree(prompt.authUrl);
    },
  });
  assert.equal(token.value, authority.newest);
});

test('the flow may be chosen', async (t) => {
  const { authority, broker } = await house(t, 'device_code', '--allow-login', 'acme');
  const prompt = ({ flow, authUrl }) => {
    assert.equal(flow, 'pkce_redirect');
    return authority.agree(authUrl);
  };
  await broker.login('acme', { flow: 'pkce_redirect', prompt });
  const error = await failure(broker.login('acme', { flow: 'toString', prompt }));
  assert.deepEqual([error.reason, error.metadata.field], ['INVALID_REQUEST', 'flow']);
});

test('who says no, and a wrong code', async (t) => {
  const { authority, broker } = await house(t, 'device_code', '--allow-login', 'acme');
  authority.device = 'no';
  const denied = await failure(broker.login('acme', { prompt() {} }));
  assert.ok(denied instanceof LoginError, String(denied));
  assert.equal(denied.reason, 'ACCESS_DENIED');
  const wrong = await failure(broker.login('acme', { flow: 'pkce_redirect', prompt: () => 'wrong' }));
  assert.ok(wrong instanceof LoginError, String(wrong));
  assert.equal(wrong.reason, 'EXCHANGE_FAILED');
});

test('a login that is given up is cancelled', async (t) => {
  const { authority, broker } = await house(t, 'device_code', '--allow-login', 'acme');
  const reason = new Error('enough');
  const stop = new AbortController();
  let told;
  const waiting = failure(
    broker.login('acme', {
      signal: stop.signal,
      prompt: (_, signal) => {
        told = signal;
        setTimeout(() => stop.abort(reason), 100);
      },
    }),
  );
  assert.equal(await waiting, reason);
  assert.ok(told.aborted);
  const thrown = new Error('no terminal');
  assert.equal(
    await failure(
      broker.login('acme', {
        prompt() {
          throw thrown;
        },
      }),
    ),
    thrown,
  );
  const typing = { flow: 'pkce_redirect', signal: AbortSignal.timeout(300), prompt: () => new Promise(() => {}) };
  assert.equal((await failure(broker.login('acme', typing))).name, 'TimeoutError');
  assert.ok((await failure(broker.login('acme', { flow: 'pkce_redirect', prompt() {} }))) instanceof TypeError);
  // A sandbox may have 16 logins open: those that were given up are not.
  for (let again = 0; again < 17; again++) {
    assert.equal(await failure(broker.login('acme', { prompt: () => Promise.reject(reason) })), reason);
  }
  // What the user agrees to now is thrown away.
  authority.device = 'yes';
  assert.equal((await failure(broker.getToken('acme'))).reason, 'NOT_FOUND');
});
