// A resource server on loopback, behind the provider that is named as its argument (oidc/server.mjs): GET with a token that
// is active at the provider now is answered with 200, anything else with 401. Prints the provider's line with `resource`,
// its URL, added. Ends, with the provider, when its standard input does.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';

const child = spawn(process.execPath, [process.argv[2]], { stdio: ['pipe', 'pipe', 'inherit'] });
child.on('exit', (status) => process.exit(status ?? 1));
const [line] = await once(createInterface({ input: child.stdout }), 'line');
const provider = JSON.parse(line);

const form = (text) => new URLSearchParams({ '': text }).toString().slice(1);
const basic = Buffer.from(`${form(provider.client_id)}:${form(provider.client_secret)}`).toString('base64');
const active = async (token) => {
  const answer = await fetch(`${provider.issuer}/token/introspection`, {
    method: 'POST',
    headers: { authorization: `Basic ${basic}` },
    body: new URLSearchParams({ token }),
  });
  if (!answer.ok) throw new Error(`introspection: ${answer.status} ${await answer.text()}`);
  return (await answer.json()).active === true;
};

const front = createServer(async (request, response) => {
  const [, token] = /^Bearer (\S+)$/.exec(request.headers.authorization ?? '') ?? [];
  let status = 401;
  try {
    if (token && (await active(token))) status = 200;
  } catch (error) {
    console.error(error);
    status = 500;
  }
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify({ active: status === 200 }));
});
front.listen(0, '127.0.0.1', () => {
  console.log(JSON.stringify({ ...provider, resource: `http://127.0.0.1:${front.address().port}/` }));
});
process.stdin.on('end', () => child.stdin.end()).resume();
