// One HTTP/2 connection to the broker's socket.
import { connect } from "node:net";
import { createClient, type CallOptions, type Client, type Interceptor } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { fromCall, errorOf } from "./errors.js";
import { CredentialBroker } from "./gen/credbroker/v1/credential_broker_pb.js";

/** What every request says it is for; the socket decides where it goes. */
const AUTHORITY = "http://localhost";

/** Where the broker is, and what it asks for. */
export interface Address {
  readonly socket: string;
  /** The capability; `undefined` where none is asked for. */
  readonly capability: string | undefined;
}

/** A connection that is made at the first call, and anew at the next one after it was lost. */
export class Connection {
  /** How many streaming calls are open. */
  streams = 0;
  readonly #socket: string;
  readonly #client: Client<typeof CredentialBroker>;
  readonly #session: Http2SessionManager;
  #closed = false;

  /** With `background`, open calls do not keep the process alive. */
  constructor({ socket, capability }: Address, background = false) {
    this.#socket = socket;
    const createConnection = () => {
      const stream = connect(socket);
      if (stream.errored) {
        // HTTP/2 would take a socket that failed at once for one that is connected.
        stream.on("error", () => {});
        throw stream.errored;
      }
      if (background) {
        // HTTP/2 refs its socket while streams are open.
        stream.unref().ref = () => stream;
      }
      return stream;
    };
    this.#session = new Http2SessionManager(AUTHORITY, {}, { createConnection });
    const authorize: Interceptor = (next) => (request) => {
      if (capability !== undefined) {
        request.header.set("authorization", `Bearer ${capability}`);
      }
      return next(request);
    };
    this.#client = createClient(
      CredentialBroker,
      createGrpcTransport({
        baseUrl: AUTHORITY,
        sessionManager: this.#session,
        interceptors: [authorize],
        acceptCompression: [],
      }),
    );
  }

  /** One call, with its failure as an error of this package or, if it was aborted, the signal's reason. */
  async call<T>(make: (client: Client<typeof CredentialBroker>) => Promise<T>, signal?: AbortSignal): Promise<T> {
    this.#check();
    try {
      return await make(this.#client);
    } catch (error) {
      throw this.#failure(error, signal);
    }
  }

  /** One streaming call. A stream that ends without an error is one whose connection was lost. */
  async *stream<T>(
    make: (client: Client<typeof CredentialBroker>, options: CallOptions) => AsyncIterable<T>,
    signal?: AbortSignal,
  ): AsyncGenerator<T, never> {
    this.#check();
    // Ends the call also if the caller leaves the loop early.
    const end = new AbortController();
    const both = signal === undefined ? end.signal : AbortSignal.any([signal, end.signal]);
    this.streams++;
    try {
      yield* make(this.#client, { signal: both });
    } catch (error) {
      throw this.#failure(error, signal);
    } finally {
      this.streams--;
      end.abort();
    }
    throw errorOf("CONNECTION_LOST", `The credential broker at ${this.#socket} ended the stream.`, {
      code: "UNAVAILABLE",
    });
  }

  close(): void {
    this.#closed = true;
    this.#session.abort();
  }

  #check(): void {
    if (this.#closed) {
      throw closed();
    }
  }

  #failure(error: unknown, signal: AbortSignal | undefined): unknown {
    if (signal?.aborted) {
      return signal.reason;
    }
    return this.#closed ? closed() : fromCall(error, this.#socket);
  }
}

/** The failure of what is asked after `close()`. */
export function closed() {
  return errorOf("CLOSED", "This client of the credential broker was closed.", { code: "CANCELLED" });
}
