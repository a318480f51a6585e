// What a strict program without the browser's types may write. It is compiled, not run.
import {
  authorizedFetch,
  Broker,
  CredbrokerError,
  InvalidRequestError,
  type AccessToken,
  type ApiKey,
  type LoginPrompt,
  type Reason,
  type TokenSource,
} from "credbroker";

export async function everything(): Promise<string> {
  using broker = new Broker({ socket: "/run/sock", capability: "00", timeoutMs: 1000 });
  const token: AccessToken = await broker.getToken("github", { bucket: "work", minValidity: 60 });
  const key: ApiKey = await broker.getApiKey("openai", { signal: AbortSignal.timeout(1000) });
  using source: TokenSource = broker.tokenSource("github");
  const send: typeof fetch = authorizedFetch(source, { origins: ["https://api.github.com"] });
  await send("https://api.github.com/user", { method: "POST", body: "{}" });
  await source.refresh(token.revision);
  for await (const { value, expireTime } of broker.watchToken("github")) {
    const when: Date | undefined = expireTime;
    return value + String(when);
  }
  const prompt = (shown: LoginPrompt): string | undefined => {
    if (shown.flow === "device_code") {
      return shown.userCode;
    }
    // @ts-expect-error: only a device code has one.
    void shown.userCode;
    return shown.authUrl;
  };
  const login: AccessToken | undefined = await broker.login("github", { prompt });
  // @ts-expect-error: it may be absent.
  void login.value;
  // @ts-expect-error: a secret is not to be set.
  token.value = "";
  // @ts-expect-error: no such flow.
  await broker.login("github", { prompt, flow: "password" });
  const stats: number = (await broker.getBucketStats("github")).requestCount;
  return key.value + (await broker.listBuckets("github")).join() + stats;
}

export function why(error: unknown): Reason | undefined {
  if (error instanceof InvalidRequestError) {
    return error.violations[0]?.field;
  }
  if (error instanceof CredbrokerError && error.reason === "NEEDS_LOGIN") {
    const seconds: number | undefined = error.retryAfter;
    return error.transient ? error.code : error.metadata["provider"] ?? String(seconds);
  }
  return undefined;
}
