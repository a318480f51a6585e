// A login that this program begins, its user agrees to, and the host completes.
import type { Client } from "@connectrpc/connect";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { errorOf, LoginError, RateLimitedError } from "./errors.js";
import {
  LoginFlow as WireFlow,
  LoginStatus,
  type AccessToken as WireToken,
  type CredentialBroker,
  type InitiateLoginResponse,
} from "./gen/credbroker/v1/credential_broker_pb.js";
import { seconds, sleep, unlessAborted } from "./time.js";
import { invalid } from "./wire.js";

/** A way to log in. */
export type LoginFlow = "pkce_redirect" | "device_code" | "browser_redirect";

/** What the user is to do. URLs and code come from the provider; each URL is https, or http to loopback. */
export type LoginPrompt = {
  /** When the login ends, by the host's clock. */
  readonly expireTime: Date | undefined;
} & (
  | {
      /** They open the URL, and are shown a code there: the callback returns what they paste. */
      readonly flow: "pkce_redirect";
      readonly authUrl: string;
    }
  | {
      /** They open the URL in a browser on the host. */
      readonly flow: "browser_redirect";
      readonly authUrl: string;
    }
  | {
      /** They open the URL on any device, and enter the code. */
      readonly flow: "device_code";
      readonly verificationUrl: string;
      /** The same with the code in it, if the provider has such a URL. */
      readonly verificationUrlComplete: string | undefined;
      readonly userCode: string;
    }
);

/**
 * Shows the user what to do. With `pkce_redirect` it gives the code that they pasted: CODE, CODE#STATE, or the whole URL
 * that they ended at. With the other flows the login goes on as soon as it returns, and what it gives is left aside. If it
 * throws, the login is cancelled.
 */
export type ShowPrompt = (prompt: LoginPrompt, signal: AbortSignal) => string | void | Promise<string | void>;

/** Options of a login. */
export interface LoginOptions {
  /** The account at the provider; `default` if it is absent. */
  readonly bucket?: string | undefined;
  /** The way; absent: what the host's configuration says. The host may choose another one, see {@link LoginPrompt}. */
  readonly flow?: LoginFlow | undefined;
  /** Shows the user what to do. */
  readonly prompt: ShowPrompt;
  /** Gives the login up. What the user still agrees to is thrown away. */
  readonly signal?: AbortSignal | undefined;
}

const FLOWS: Record<LoginFlow, WireFlow> = {
  pkce_redirect: WireFlow.PKCE_REDIRECT,
  device_code: WireFlow.DEVICE_CODE,
  browser_redirect: WireFlow.BROWSER_REDIRECT,
};

/** How often PollLogin is asked if the broker does not say. */
const POLL_SECONDS = 2;

/** @internal Makes one call; the options are those of the call. */
export type Make<T> = (
  client: Client<typeof CredentialBroker>,
  options: { signal?: AbortSignal; timeoutMs: number },
) => Promise<T>;

/** @internal Sees one call through; its failure is an error of this package. */
export type Call = <T>(make: Make<T>, signal?: AbortSignal) => Promise<T>;

/** @internal Sees a login through. `undefined`: it is complete, and this sandbox may not read the entry. */
export async function login(call: Call, provider: string, options: LoginOptions): Promise<WireToken | undefined> {
  const { bucket = "", flow, prompt: show, signal } = options;
  if (flow !== undefined && !Object.hasOwn(FLOWS, flow)) {
    throw invalid("flow", `must be one of ${Object.keys(FLOWS).join(", ")}`);
  }
  const request = { provider, bucket, flow: flow === undefined ? WireFlow.UNSPECIFIED : FLOWS[flow] };
  const begun = await call((client, options) => client.initiateLogin(request, options), signal);
  const { sessionId } = begun;
  const end = new AbortController();
  const given = signal === undefined ? end.signal : AbortSignal.any([signal, end.signal]);
  try {
    const prompt = promptOf(begun);
    const pasted = await unlessAborted(Promise.resolve(show(prompt, given)), signal);
    if (prompt.flow !== "pkce_redirect") {
      return await poll(call, begun, signal);
    }
    if (typeof pasted !== "string") {
      throw new TypeError("with the flow pkce_redirect the prompt callback has to return the code that the user pasted");
    }
    const answer = await call((client, options) => client.exchangeCode({ sessionId, code: pasted }, options), signal);
    return answer.token;
  } catch (error) {
    if (!(error instanceof LoginError)) {
      // Best effort: a session that is not cancelled ends by itself.
      await call((client, options) => client.cancelLogin({ sessionId }, { ...options, timeoutMs: 2000 })).catch(() => {});
    }
    throw error;
  } finally {
    end.abort();
  }
}

async function poll(call: Call, begun: InitiateLoginResponse, signal?: AbortSignal): Promise<WireToken | undefined> {
  const { sessionId } = begun;
  let interval = begun.pollInterval;
  for (;;) {
    await sleep(1000 * (interval === undefined ? POLL_SECONDS : seconds(interval)), signal);
    let answer;
    try {
      answer = await call((client, options) => client.pollLogin({ sessionId }, options), signal);
    } catch (error) {
      if (!(error instanceof RateLimitedError)) {
        throw error;
      }
      await sleep(1000 * (error.retryAfter ?? 0), signal);
      continue;
    }
    if (answer.status === LoginStatus.COMPLETE) {
      return answer.token;
    }
    if (answer.status === LoginStatus.ERROR) {
      const { reason = "INTERNAL_ERROR", message = "the login failed" } = answer.error ?? {};
      throw errorOf(reason, message, { code: "FAILED_PRECONDITION" });
    }
    interval = answer.pollInterval ?? interval;
  }
}

function promptOf(begun: InitiateLoginResponse): LoginPrompt {
  const expireTime = begun.expireTime && timestampDate(begun.expireTime);
  switch (begun.flow) {
    case WireFlow.PKCE_REDIRECT:
      return { flow: "pkce_redirect", authUrl: begun.authUrl, expireTime };
    case WireFlow.BROWSER_REDIRECT:
      return { flow: "browser_redirect", authUrl: begun.authUrl, expireTime };
    case WireFlow.DEVICE_CODE:
      return {
        flow: "device_code",
        verificationUrl: begun.verificationUrl,
        verificationUrlComplete: begun.verificationUrlComplete || undefined,
        userCode: begun.userCode,
        expireTime,
      };
    default:
      throw errorOf("UNIMPLEMENTED", "the broker began a login of a flow that this client does not know; renew it", {
        code: "UNIMPLEMENTED",
      });
  }
}
