// The token where it is used.
import type { TokenSource } from "./source.js";

/** Options of {@link authorizedFetch}. */
export interface AuthorizedFetchOptions {
  /** The origins that the token may be sent to, such as `https://api.github.com`. Others are refused. Absent: every origin. */
  readonly origins?: readonly string[] | undefined;
  /** What sends the requests; absent: the global `fetch`. */
  readonly fetch?: typeof globalThis.fetch | undefined;
}

/**
 * A `fetch` that sends the source's token with each request. When the server answers 401, it asks for another token and
 * sends the request once more. A request whose body is a stream cannot be sent twice: its 401 is given back, and the next
 * request has the new token.
 */
export function authorizedFetch(source: TokenSource, options: AuthorizedFetchOptions = {}): typeof globalThis.fetch {
  const origins = options.origins?.map((origin) => new URL(origin).origin);
  return async (input, init) => {
    const send = options.fetch ?? globalThis.fetch;
    const request = input instanceof Request ? input : undefined;
    const url = new URL(request?.url ?? String(input));
    if (origins !== undefined && !origins.includes(url.origin)) {
      throw new TypeError(`the token is for ${origins.join(", ")} only, and not sent to ${url.origin}`);
    }
    const signal = init?.signal ?? request?.signal ?? undefined;
    const again = isRepeatable(init?.body) && (init?.body != null || request?.body == null);
    const authorized = (authorization: string) => {
      const headers = new Headers(init?.headers ?? request?.headers);
      headers.set("authorization", authorization);
      return send(input, { ...init, headers });
    };

    const token = await source.get({ signal });
    const response = await authorized(token.authorization);
    // Who answers after a redirect to elsewhere has not seen the token.
    if (response.status !== 401 || (response.redirected && new URL(response.url).origin !== url.origin)) {
      return response;
    }
    const next = await source.refresh(token, { signal });
    if (!again || next.revision === token.revision) {
      return response;
    }
    await response.body?.cancel();
    return authorized(next.authorization);
  };
}

/** Whether a body can be sent twice. */
function isRepeatable(body: RequestInit["body"]): boolean {
  return (
    body == null ||
    typeof body === "string" ||
    body instanceof URLSearchParams ||
    body instanceof FormData ||
    body instanceof Blob ||
    body instanceof ArrayBuffer ||
    ArrayBuffer.isView(body)
  );
}
