// The example, as it is, with a GitHub of the test's own.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Authority } from './authority.js';
import { World } from './world.js';

async function example(environment) {
  const file = fileURLToPath(new URL('../examples/github.js', import.meta.url));
  const running = execFile(process.execPath, [file], { env: { ...process.env, ...environment }, timeout: 30_000 });
  const [out, err, [code]] = await Promise.all([
    new Response(running.stdout).text(),
    new Response(running.stderr).text(),
    once(running, 'exit'),
  ]);
  return { out, err, code };
}

test('the example says who it is, and logs in where it has to', async (t) => {
  const authority = await Authority.start(t);
  authority.device = 'yes';
  const world = await World.make(t, authority.config('github'));
  await world.store('github', { access_token: 'gho_demo', expires_in: 60 });
  const github = createServer(({ url, headers: { authorization } }, response) => {
    const good = url === '/user' && ['Bearer gho_demo', `Bearer ${authority.newest}`].includes(authorization);
    response.writeHead(good ? 200 : 500).end(JSON.stringify({ login: authorization }));
  });
  github.listen(0, '127.0.0.1');
  await once(github, 'listening');
  t.after(() => github.close());
  await world.serve('--allow', 'github', '--allow-login', 'github');
  const environment = {
    CREDBROKER_SOCKET: world.socket,
    CREDBROKER_CAPABILITY: world.capability,
    GITHUB_API_URL: `http://127.0.0.1:${github.address().port}`,
  };
  assert.deepEqual(await example(environment), { out: 'Bearer gho_demo\n', err: '', code: 0 });

  await world.host(['logout', 'github']);
  assert.deepEqual(await example(environment), {
    out: `Bearer ${authority.newest}\n`,
    err: `Open ${authority.url}/activate and enter WDJB-MJHT\n`,
    code: 0,
  });

  await world.stop();
  const without = await example(environment);
  assert.deepEqual([without.out, without.code], ['', 1]);
  assert.match(without.err, /^CANNOT_CONNECT: Cannot connect to the credential broker at .*\n$/);
});
