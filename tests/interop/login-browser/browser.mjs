// A person at headless Chromium: opens a URL, signs in, answers the question for consent, and takes a picture of each page.
//   node browser.mjs DIRECTORY NAME continue|cancel <URL
// Prints {"pages": [{"title", "text", "address", "picture"}]}; the URL comes from standard input, because it holds `state`.
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const [directory, name, answer] = process.argv.slice(2);
const url = readFileSync(0, 'utf8').trim();
const profile = mkdtempSync(join(tmpdir(), 'login-browser-'));
// Whatever it leaves is there, and goes with it.
const home = { HOME: profile, TMPDIR: profile };
for (const name of ['RUNTIME_DIR', 'CONFIG_HOME', 'DATA_HOME', 'STATE_HOME', 'CACHE_HOME']) home[`XDG_${name}`] = profile;
const chromium = spawn(
  'chromium',
  [
    '--headless=new',
    '--remote-debugging-pipe',
    `--user-data-dir=${profile}`,
    '--no-first-run',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--window-size=900,700',
    // Nothing but this machine is asked.
    '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
    'about:blank',
  ],
  { env: { ...process.env, ...home }, stdio: ['ignore', 'ignore', 'inherit', 'pipe', 'pipe'] },
);
const patience = setTimeout(() => {
  console.error('the browser did not get there in a minute');
  chromium.kill('SIGKILL');
  process.exit(1);
}, 60_000);

// The DevTools protocol over two pipes: messages of JSON, each ended by a zero byte.
const waiting = new Map();
const listeners = new Set();
let rest = '';
chromium.stdio[4].setEncoding('utf8').on('data', (data) => {
  const messages = (rest + data).split('\0');
  rest = messages.pop();
  for (const message of messages.map((text) => JSON.parse(text))) {
    if (message.id) {
      const { resolve, reject } = waiting.get(message.id);
      waiting.delete(message.id);
      if (message.error) reject(new Error(message.error.message));
      else resolve(message.result);
    } else {
      for (const listener of listeners) listener(message);
    }
  }
});
let last = 0;
const send = (method, params = {}, sessionId = undefined) =>
  new Promise((resolve, reject) => {
    last += 1;
    waiting.set(last, { resolve, reject });
    chromium.stdio[3].write(`${JSON.stringify({ id: last, method, params, sessionId })}\0`);
  });

const { targetInfos } = await send('Target.getTargets');
const { targetId } = targetInfos.find(({ type }) => type === 'page');
const { sessionId } = await send('Target.attachToTarget', { targetId, flatten: true });
const tab = (method, params) => send(method, params, sessionId);
await tab('Page.enable');

// Does something that leads to another page, and waits for that.
const leads = async (action) => {
  let listener;
  const loaded = new Promise((resolve) => {
    listener = ({ method, params }) => {
      if (method === 'Page.loadEventFired') resolve(params);
    };
    listeners.add(listener);
  });
  await action();
  await loaded;
  listeners.delete(listener);
};
const run = async (expression) => (await tab('Runtime.evaluate', { expression, returnByValue: true })).result.value;

const pages = [];
const look = async (what) => {
  const picture = join(directory, `${name}-${pages.length + 1}-${what}.png`);
  const { data } = await tab('Page.captureScreenshot', { format: 'png' });
  writeFileSync(picture, Buffer.from(data, 'base64'));
  const page = await run('({ title: document.title, text: document.body.innerText, address: location.href })');
  pages.push({ ...page, picture });
};

await leads(() => tab('Page.navigate', { url }));
await look('sign-in');
await run(`document.querySelector('[name=login]').value = ${JSON.stringify(name)}`);
await run(`document.querySelector('[name=password]').value = 'anything'`);
await leads(() => run(`document.querySelector('[type=submit]').click()`));
await look('consent');
const press = answer === 'continue' ? '[type=submit]' : '.login-help a';
await leads(() => run(`document.querySelector('${press}').click()`));
await look('end');

await send('Browser.close');
await new Promise((resolve) => chromium.on('exit', resolve));
clearTimeout(patience);
rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
console.log(JSON.stringify({ pages }));
