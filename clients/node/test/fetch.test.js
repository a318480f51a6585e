// A resource server that takes only the newest token.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { test } from 'node:test';
import { authorizedFetch } from 'credbroker';
import { Authority } from './authority.js';
import { failure, World } from './world.js';

/** What it was asked, and what it answers. */
async function resource(t, good) {
  const seen = [];
  const server = createServer(async (request, response) => {
    const body = await new Response(request).text();
    const { authorization, 'x-mine': mine } = request.headers;
    seen.push({ method: request.method, authorization, mine, body });
    response.writeHead(good(authorization) ? 200 : 401).end(body);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { seen, url: `http://127.0.0.1:${server.address().port}/` };
}

/** An entry whose stored token is refused where it is used until it is refreshed. */
async function stale(t) {
  const authority = await Authority.start(t);
  const world = await World.make(t, authority.config('acme'));
  await world.store('acme', authority.tokens());
  const old = authority.newest;
  await world.serve();
  const source = world.broker(t).tokenSource('acme');
  const server = await resource(t, (authorization) => authority.newest !== old && authorization === `Bearer ${authority.newest}`);
  return { authority, old, source, ...server };
}

test('a refused token is refreshed once, and the request sent once more', async (t) => {
  const { authority, old, source, seen, url } = await stale(t);
  const get = authorizedFetch(source);
  const response = await get(url, { method: 'POST', body: 'mine', headers: { 'x-mine': '1', authorization: 'Basic no' } });
  assert.deepEqual([response.status, await response.text()], [200, 'mine']);
  const sent = (token) => ({ method: 'POST', authorization: `Bearer ${token}`, mine: '1', body: 'mine' });
  assert.deepEqual(seen, [sent(old), sent(authority.newest)]);
  assert.equal(authority.refreshes, 1);
  assert.equal((await get(new URL(url))).status, 200);
  assert.equal((await get(new Request(url, { headers: { 'x-mine': '2' } }))).status, 200);
  assert.equal(seen.length, 4);
  assert.equal(seen[3].mine, '2');
});

test('many refused at once share one refresh', async (t) => {
  const { authority, source, url } = await stale(t);
  const get = authorizedFetch(source);
  const answers = await Promise.all(Array.from({ length: 50 }, () => get(url)));
  assert.deepEqual(new Set(answers.map((answer) => answer.status)), new Set([200]));
  assert.equal(authority.refreshes, 1);
});

test('a server that refuses every token is believed', async (t) => {
  const { authority, source } = await stale(t);
  const { seen, url } = await resource(t, () => false);
  const get = authorizedFetch(source);
  assert.equal((await get(url)).status, 401);
  assert.equal(seen.length, 2);
  // The host refreshed a moment ago: it gives the same token, which need not be tried again.
  assert.equal((await get(url)).status, 401);
  assert.equal(seen.length, 3);
  assert.equal(authority.refreshes, 1);
});

test('a body that is a stream is sent once, and the next request is good', async (t) => {
  for (const how of ['init', 'request']) {
    const { source, seen, url } = await stale(t);
    const get = authorizedFetch(source);
    const init = { method: 'POST', body: new Blob(['mine']).stream(), duplex: 'half' };
    const response = await (how === 'init' ? get(url, init) : get(new Request(url, init)));
    assert.equal(response.status, 401);
    assert.equal(await response.text(), 'mine');
    assert.equal(seen.length, 1);
    assert.equal((await get(url)).status, 200);
  }
});

test('a 401 of who was redirected to is not about the token', async (t) => {
  const { authority, old, source } = await stale(t);
  const elsewhere = await resource(t, () => false);
  const server = createServer((_, response) => response.writeHead(307, { location: elsewhere.url }).end());
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  const response = await authorizedFetch(source)(`http://127.0.0.1:${server.address().port}/`);
  assert.equal(response.status, 401);
  assert.deepEqual(elsewhere.seen.map(({ authorization }) => authorization), [undefined]);
  assert.deepEqual([authority.refreshes, authority.newest], [0, old]);
});

test('the refusal of the refresh is what is raised', async (t) => {
  const { authority, source, url } = await stale(t);
  authority.mode = 'refuse';
  assert.equal((await failure(authorizedFetch(source)(url))).reason, 'NEEDS_LOGIN');
});

test('a token is sent to its origins only', async (t) => {
  const { source, seen, url } = await stale(t);
  const get = authorizedFetch(source, { origins: ['https://api.acme.example/v1'] });
  for (const input of [url, new URL(url), new Request(url)]) {
    const error = await failure(get(input));
    assert.ok(error instanceof TypeError);
    assert.match(error.message, /https:\/\/api\.acme\.example only, and not sent to http:\/\/127/);
  }
  assert.deepEqual(seen, []);
  assert.equal((await authorizedFetch(source, { origins: [url] })(url)).status, 200);
  const stop = AbortSignal.abort(new Error('enough'));
  assert.equal((await failure(authorizedFetch(source)(url, { signal: stop }))).message, 'enough');
});
