// A token that is always fresh: a stream keeps the newest one.
import { closed } from "./connection.js";
import { CredbrokerError } from "./errors.js";
import { sleep, unlessAborted } from "./time.js";
import type { AccessToken } from "./token.js";

/** @internal What a source needs of its broker. */
export interface Origin {
  get(): Promise<AccessToken>;
  refresh(revision: string): Promise<AccessToken>;
  watch(signal: AbortSignal): AsyncIterable<AccessToken>;
  closed(): boolean;
}

/** For how long a lost stream waits before it is opened anew: doubled each time, and jittered. */
const FIRST_DELAY_MS = 100;
const LONGEST_DELAY_MS = 5000;

/** Options of one question. */
export interface SourceOptions {
  /** Stops the waiting; the others that wait go on. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * The newest access token of one entry. The first `get()` asks the broker; from then on a stream brings each new token as
 * soon as the host has it, and `get()` waits for nothing while the token is usable. The stream keeps no process alive, and
 * is opened anew when it is lost. A token that has expired is never given.
 *
 * A refusal, such as NOT_FOUND after a logout, is raised by the next `get()`, and each `get()` after it asks anew.
 */
export class TokenSource {
  readonly #origin: Origin;
  readonly #end = new AbortController();
  #token: AccessToken | undefined;
  /** How many times the stream changed `#token`: what it says wins over answers to questions that were asked before. */
  #news = 0;
  #following = false;
  /** Ends the waiting before the next stream. */
  #wake: (() => void) | undefined;
  #streams = 0;
  #asked: Promise<AccessToken> | undefined;
  /** The refreshes under way, by the refused revision. */
  readonly #refreshing = new Map<string, Promise<AccessToken>>();
  /** The revision that was replaced last. The stream may still bring it: it was on its way. */
  #replaced: string | undefined;

  /** @internal */
  constructor(origin: Origin) {
    this.#origin = origin;
  }

  /** A usable token. */
  async get({ signal }: SourceOptions = {}): Promise<AccessToken> {
    signal?.throwIfAborted();
    this.#check();
    const token = this.current;
    if (token !== undefined) {
      this.#follow();
      return token;
    }
    if (this.#asked === undefined) {
      this.#asked = this.#adopt(this.#origin.get()).finally(() => (this.#asked = undefined));
      this.#asked.catch(() => {}); // Everybody who waits may have gone.
    }
    return unlessAborted(this.#asked, signal);
  }

  /**
   * A token that is not the refused one: for a client whose token was refused where it was used. Whoever asks with the same
   * one shares one refresh, and if there is a newer token already, that is the answer. It may be the refused one again if
   * the host refreshed it a moment ago.
   */
  async refresh(refused: AccessToken | string, { signal }: SourceOptions = {}): Promise<AccessToken> {
    signal?.throwIfAborted();
    this.#check();
    const revision = typeof refused === "string" ? refused : refused.revision;
    const token = this.current;
    if (token !== undefined && token.revision !== revision) {
      return token;
    }
    let flight = this.#refreshing.get(revision);
    if (flight === undefined) {
      flight = this.#adopt(this.#replace(revision)).finally(() => this.#refreshing.delete(revision));
      flight.catch(() => {}); // As above.
      this.#refreshing.set(revision, flight);
    }
    return unlessAborted(flight, signal);
  }

  /** The token that is there, if it is usable. Asks nobody. */
  get current(): AccessToken | undefined {
    return this.#token?.usable ? this.#token : undefined;
  }

  /** How many streams it has opened so far; more than one: the first was lost. */
  get streams(): number {
    return this.#streams;
  }

  /** Ends the stream. Whoever asks from now on is told CLOSED. */
  close(): void {
    this.#end.abort();
    this.#token = undefined;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #check(): void {
    if (this.#end.signal.aborted || this.#origin.closed()) {
      throw closed();
    }
  }

  async #replace(revision: string): Promise<AccessToken> {
    const token = await this.#origin.refresh(revision);
    if (token.revision !== revision) {
      this.#replaced = revision;
    }
    return token;
  }

  /** Keeps an answer, unless the stream brought something while it was on its way. */
  async #adopt(answer: Promise<AccessToken>): Promise<AccessToken> {
    const news = this.#news;
    const token = await answer;
    if (news === this.#news && !this.#end.signal.aborted) {
      this.#token = token;
    }
    // The broker is there.
    this.#wake?.();
    this.#follow();
    return token;
  }

  /** Opens the stream unless there is one. */
  #follow(): void {
    if (!this.#following && !this.#end.signal.aborted) {
      this.#following = true;
      void this.#run(this.#end.signal).finally(() => (this.#following = false));
    }
  }

  /** Holds the stream until a refusal that lasts. Never fails. */
  async #run(signal: AbortSignal): Promise<void> {
    let failures = 0;
    while (!signal.aborted) {
      let delay: number;
      try {
        this.#streams++;
        for await (const token of this.#origin.watch(signal)) {
          failures = 0;
          if (token.revision === this.#replaced) {
            continue;
          }
          if (!this.#refreshing.has(token.revision)) {
            this.#news++;
          }
          this.#token = token;
        }
        delay = FIRST_DELAY_MS;
      } catch (error) {
        if (signal.aborted) {
          return;
        }
        if (!(error instanceof CredbrokerError && error.transient)) {
          // The next question is the broker's to answer.
          this.#news++;
          this.#token = undefined;
          return;
        }
        const longest = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** failures);
        delay = Math.max(longest * (0.5 + Math.random() / 2), (error.retryAfter ?? 0) * 1000);
        failures++;
      }
      const wake = new AbortController();
      this.#wake = () => wake.abort();
      await sleep(delay, AbortSignal.any([signal, wake.signal]), true).catch(() => {});
      this.#wake = undefined;
    }
  }
}
