// A host of its own for a test: a store, a configuration, and brokers that can be stopped and started again.
import { execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Broker } from 'credbroker';

const PATIENCE_MS = 20_000;

const binary = process.env.CREDBROKER_BIN;
if (!binary) {
  throw new Error('CREDBROKER_BIN must name a credbroker');
}

/** What a condition gives as soon as it is true. */
export async function until(what, condition, patience = PATIENCE_MS) {
  const end = performance.now() + patience;
  for (;;) {
    const got = await condition();
    if (got) return got;
    if (performance.now() > end) throw new Error(`not within ${patience} ms: ${what}`);
    await sleep(20);
  }
}

/** The error that a promise is rejected with. */
export async function failure(promise) {
  let value;
  try {
    value = await promise;
  } catch (error) {
    return error;
  }
  throw new Error(`did not fail, but gave ${value}`);
}

export class World {
  #environment;
  #dir;
  #running;
  #log = '';

  /** A world without entries. Everything is gone after the test. */
  static async make(t, config = '') {
    const world = new World();
    const dir = (world.#dir = await mkdtemp(path.join(tmpdir(), 'cb-node-')));
    const { CREDBROKER_SOCKET, ...environment } = process.env;
    // What is left of CREDBROKER_* is configuration to the binary, and it refuses what it does not know.
    for (const name of Object.keys(environment)) {
      if (name.startsWith('CREDBROKER_')) delete environment[name];
    }
    for (const [variable, name] of Object.entries({
      XDG_RUNTIME_DIR: 'runtime',
      XDG_DATA_HOME: 'data',
      XDG_STATE_HOME: 'state',
      XDG_CONFIG_HOME: 'config',
    })) {
      environment[variable] = path.join(dir, name);
      await mkdir(environment[variable], { mode: 0o700 });
    }
    world.#environment = environment;
    await mkdir(path.join(dir, 'config', 'credbroker'));
    await writeFile(path.join(dir, 'config', 'credbroker', 'config.toml'), config);
    await mkdir(path.join(dir, 'socket'), { mode: 0o700 });
    world.socket = path.join(dir, 'socket', 'sock');
    world.capability = randomBytes(32).toString('hex');
    await writeFile(path.join(dir, 'capability'), `${world.capability}\n`, { mode: 0o600 });
    t.after(async () => {
      await world.stop('SIGKILL');
      await rm(dir, { recursive: true });
    });
    return world;
  }

  /** A command on the host; what it prints. */
  async host(args, input = '') {
    const running = execFile(binary, args, { env: this.#environment });
    running.stdin.end(input);
    const [out, err, [code]] = await Promise.all([
      new Response(running.stdout).text(),
      new Response(running.stderr).text(),
      once(running, 'exit'),
    ]);
    if (code !== 0) throw new Error(`credbroker ${args.join(' ')}: ${code}: ${err}`);
    return out;
  }

  /** Stores a token set. */
  async store(provider, tokens) {
    await this.host(['token', 'import', provider], JSON.stringify(tokens));
  }

  /** Starts a broker at `socket` that asks for `capability`. */
  async serve(...rights) {
    const args = ['serve', '--socket', this.socket, '--capability-file', path.join(this.#dir, 'capability'), ...rights];
    const running = spawn(binary, args, { env: this.#environment, stdio: ['ignore', 'ignore', 'pipe'] });
    running.stderr.on('data', (text) => (this.#log += text));
    this.#running = running;
    await until('the broker listens', async () => {
      if (running.exitCode !== null) throw new Error(`the broker ended: ${this.#log}`);
      return new Promise((resolve) => {
        const probe = connect(this.socket, () => resolve(true)).on('error', () => resolve(false));
        probe.on('connect', () => probe.destroy());
      });
    });
  }

  /** Stops the broker, and waits until it has ended. */
  async stop(signal = 'SIGTERM') {
    const running = this.#running;
    this.#running = undefined;
    if (running && running.exitCode === null && running.signalCode === null) {
      running.kill(signal);
      await once(running, 'exit');
    }
  }

  /** A client that is closed after the test. */
  broker(t, options = {}) {
    const broker = new Broker({ socket: this.socket, capability: this.capability, ...options });
    t.after(() => broker.close());
    return broker;
  }
}
