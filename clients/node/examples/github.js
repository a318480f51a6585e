// Who am I at GitHub? With a token that is always fresh:
//
//     credbroker run --allow github -- node github.js
//
// With --allow-login github as well it logs in where the entry is empty or needs it.
import { authorizedFetch, Broker, CredbrokerError } from 'credbroker';

// For tests; else GitHub's own.
const api = process.env.GITHUB_API_URL ?? 'https://api.github.com';

async function whoAmI(broker) {
  const source = broker.tokenSource('github');
  const github = authorizedFetch(source, { origins: [api] });
  const response = await github(new URL('user', `${api}/`), { headers: { accept: 'application/json' } });
  if (!response.ok) throw new Error(`GitHub answered ${response.status}`);
  return (await response.json()).login;
}

// What is shown comes from the provider: no control characters on the terminal.
const plain = (text) => text.replace(/[\p{Cc}\p{Cf}]/gu, '?');

function prompt(shown) {
  if (shown.flow === 'device_code') {
    console.error(`Open ${plain(shown.verificationUrl)} and enter ${plain(shown.userCode)}`);
  } else {
    console.error(`Open ${plain(shown.authUrl)}`);
  }
}

try {
  const broker = new Broker();
  try {
    console.log(await whoAmI(broker));
  } catch (error) {
    if (error.reason !== 'NOT_FOUND' && error.reason !== 'NEEDS_LOGIN') throw error;
    await broker.login('github', { flow: 'device_code', prompt });
    console.log(await whoAmI(broker));
  }
} catch (error) {
  if (!(error instanceof CredbrokerError)) throw error;
  console.error(`${error.reason}: ${error.message}`);
  process.exitCode = 1;
}
