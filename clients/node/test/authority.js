// A scripted authorization server: refreshes, codes with PKCE, device codes. It says what it is told to say.
import { createHash, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';

const DEVICE = 'urn:ietf:params:oauth:grant-type:device_code';

export class Authority {
  /** How long its access tokens live. */
  lifetime = 3600;
  /** What it says to a refresh: `ok`, `refuse`, `down`, or `hang`. */
  mode = 'ok';
  /** Whether the user has agreed to the device code: `pending`, `yes`, `no`. */
  device = 'pending';
  /** How many refreshes it was asked for. */
  refreshes = 0;
  /** The newest access token: the only good one. */
  newest = '';
  #challenges = new Map();
  #hanging = [];

  static async start(t) {
    const authority = new Authority();
    const server = createServer((request, response) => authority.#answer(request, response));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    authority.url = `http://127.0.0.1:${server.address().port}`;
    t.after(() => {
      server.closeAllConnections();
      server.close();
    });
    return authority;
  }

  /** Its section of a configuration. */
  config(name, flow = 'device_code') {
    return `
[providers.${name}]
authorization_endpoint = "${this.url}/authorize"
token_endpoint = "${this.url}/token"
device_authorization_endpoint = "${this.url}/device"
redirect_url = "${this.url}/code"
client_id = "tests"
flow = "${flow}"
`;
  }

  /** Answers what hangs, and does not hang any more. */
  release() {
    this.mode = 'ok';
    for (const answer of this.#hanging.splice(0)) answer();
  }

  /** What a person is shown who agrees at the page. */
  agree(authUrl) {
    const { code_challenge, state } = Object.fromEntries(new URL(authUrl).searchParams);
    const code = randomUUID();
    this.#challenges.set(code, code_challenge);
    return `${code}#${state}`;
  }

  /** A token set as the host imports it. */
  tokens(lifetime = this.lifetime) {
    this.newest = `at_${randomUUID()}`;
    return { access_token: this.newest, token_type: 'Bearer', expires_in: lifetime, refresh_token: `rt_${randomUUID()}` };
  }

  async #answer(request, response) {
    const form = new URLSearchParams(await new Response(request).text());
    const say = (status, body) => response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
    if (request.url === '/device') {
      const verification_uri = `${this.url}/activate`;
      return say(200, { device_code: randomUUID(), user_code: 'WDJB-MJHT', verification_uri, expires_in: 60, interval: 1 });
    }
    switch (form.get('grant_type')) {
      case 'refresh_token':
        this.refreshes++;
        if (this.mode === 'hang') await new Promise((resolve) => this.#hanging.push(resolve));
        if (this.mode === 'down') return say(503, {});
        return this.mode === 'refuse' ? say(400, { error: 'invalid_grant' }) : say(200, this.tokens());
      case 'authorization_code': {
        const challenge = createHash('sha256').update(form.get('code_verifier') ?? '').digest('base64url');
        const good = this.#challenges.get(form.get('code')) === challenge;
        return good ? say(200, this.tokens()) : say(400, { error: 'invalid_grant' });
      }
      case DEVICE:
        if (this.device === 'yes') return say(200, this.tokens());
        return say(400, { error: this.device === 'no' ? 'access_denied' : 'authorization_pending' });
      default:
        return say(404, { error: 'not_found' });
    }
  }
}
