// SPDX-License-Identifier: Apache-2.0
// The thread of one TLS connection: agrees on TLS with the peer, then moves bytes between the connection and the migration.
//
//   client                       server
//        ◀──── TLS 1.3 handshake ────▶
//        ◀── "+"                         its certificate is accepted: the migration's own bytes follow, both ways
//        ◀── "-", reason, end            it is not: in TLS 1.3 a client cannot know from the handshake alone
//
// An end that comes without TLS's own word for it is passed on as an end: what a migration needs whole says itself how long
// it is, and the guest is given up by a message.
import { Buffer } from "node:buffer";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { connect, createServer, type SecureContextOptions, type TLSSocket } from "node:tls";
import { describeError } from "../../errors.ts";
import { adoptSocket, adoptUnderTls, type TlsCarrier } from "../../runtime/socket.ts";
import type { TlsCredentials } from "./tls-credentials.ts";
import { TlsFailure } from "./tls-failure.ts";

/** Both fds are connected sockets and become the worker's. */
export interface TlsOrder {
  /** The tunnel's end in this process. */
  innerFd: number;
  /** The connection to the peer. */
  outerFd: number;
  /** The address, for errors. */
  name: string;
  credentials: TlsCredentials;
  hostname: string;
  failure: SharedArrayBuffer;
}

/** Sent once. When `secured` is false, the reason is in the order's `failure`. */
export interface TlsReport {
  secured: boolean;
}

/** A peer that says nothing is no peer. */
const HANDSHAKE_TIMEOUT_MS = 10_000;
/** How long a peer may take to end its direction when this one has ended. */
const LINGER_MS = 5000;
/** How long TLS may take to find the reason for the end of a connection. */
const GRACE_MS = 200;
const ACCEPTED = "+".charCodeAt(0);
const REFUSED = "-";
const MAX_REASON_BYTES = 1024;

const scope = globalThis as unknown as {
  onmessage: (event: { data: TlsOrder | "abort" }) => void;
  postMessage(report: TlsReport): void;
  close(): void;
};

async function serve(order: TlsOrder, aborted: Promise<never>): Promise<void> {
  const failure = new TlsFailure(order.failure);
  const sockets: Duplex[] = [];
  let secured = false;
  try {
    const inner = adoptSocket(order.innerFd);
    const carrier = adoptUnderTls(order.outerFd);
    const outer = carrier.stream;
    sockets.push(inner, outer);
    // The migration closes its end when it likes; nobody is left to be told.
    inner.on("error", () => inner.destroy());
    const agreed = agree(order.credentials, order.hostname, outer, sockets);
    const secure = await Promise.race([agreed, failsWith(outer), failsLate(), aborted]);
    secured = true;
    scope.postMessage({ secured });
    await pump(inner, secure, carrier);
  } catch (error) {
    failure.report(`TLS with ${order.name} failed: ${explain(error, order.credentials)}`);
    if (!secured) scope.postMessage({ secured });
  }
  await closeAll(sockets);
}

/** What has been given its last bytes gets the time to send them. Of a socket below TLS not every runtime tells the end. */
async function closeAll(sockets: readonly Duplex[]): Promise<void> {
  const closed = (socket: Duplex): unknown => socket.closed || new Promise((resolve) => socket.once("close", resolve));
  await Promise.race([Promise.all(sockets.filter((socket) => socket.writableEnded).map(closed)), sleep(LINGER_MS)]);
  const rest = sockets.map(closed);
  for (const socket of sockets) socket.destroy();
  await Promise.race([Promise.all(rest), sleep(LINGER_MS)]);
}

/** Resolves with a connection whose both ends have accepted each other. `sockets` gets what it has to be destroyed with. */
function agree(credentials: TlsCredentials, hostname: string, outer: Duplex, sockets: Duplex[]): Promise<TLSSocket> {
  return credentials.endpoint === "server"
    ? accept(credentials, outer, sockets)
    : approach(credentials, hostname, outer, sockets);
}

async function accept(credentials: TlsCredentials, outer: Duplex, sockets: Duplex[]): Promise<TLSSocket> {
  const { verifyPeer } = credentials;
  // `authorized` is looked at here, because not every runtime tells why it sends a client away.
  const server = createServer({ ...contextOf(credentials), requestCert: verifyPeer, rejectUnauthorized: false });
  const { promise, resolve, reject } = Promise.withResolvers<TLSSocket>();
  server.once("tlsClientError", reject);
  server.once("secureConnection", resolve);
  server.emit("connection", outer);
  const socket = await promise;
  sockets.push(socket);
  socket.on("error", () => {});
  if (!verifyPeer || socket.authorized) {
    socket.write(Uint8Array.of(ACCEPTED));
    return socket;
  }
  const hasCertificate = Object.keys(socket.getPeerCertificate() ?? {}).length > 0;
  const why = hasCertificate
    ? `the client's certificate is not trusted (${reasonOf(socket.authorizationError)})`
    : "the client has sent no certificate";
  socket.resume();
  socket.end(`${REFUSED}${why}`);
  throw new Error(why);
}

async function approach(
  credentials: TlsCredentials,
  hostname: string,
  outer: Duplex,
  sockets: Duplex[],
): Promise<TLSSocket> {
  const isAddress = hostname.includes(":") || /^[\d.]+$/.test(hostname);
  const { promise, resolve, reject } = Promise.withResolvers<TLSSocket>();
  const socket = connect({
    ...contextOf(credentials),
    socket: outer,
    rejectUnauthorized: credentials.verifyPeer,
    // The certificate is compared with either. No address may be sent as a name, RFC 6066.
    ...(isAddress ? { host: hostname } : { servername: hostname }),
  });
  sockets.push(socket);
  socket.on("error", reject);
  let answer = Buffer.alloc(0);
  const hear = (bytes: Uint8Array): void => {
    answer = Buffer.concat([answer, bytes]).subarray(0, Math.max(MAX_REASON_BYTES, bytes.length));
    if (answer[0] !== ACCEPTED) return;
    socket.off("data", hear);
    socket.pause();
    if (answer.length > 1) socket.unshift(answer.subarray(1));
    resolve(socket);
  };
  socket.on("data", hear);
  for (const event of ["end", "close"]) {
    socket.once(event, () => {
      const text = answer.toString("utf8");
      reject(new Error(text.startsWith(REFUSED) ? `The other side refused: ${text.slice(1)}` : CUT_SHORT));
    });
  }
  return promise;
}

function contextOf({ ca, own }: TlsCredentials): SecureContextOptions {
  return { ca, cert: own?.certificate, key: own?.key, minVersion: "TLSv1.3" };
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

const CUT_SHORT = "The other side ended the connection before TLS was agreed on";

/** Moves bytes until both directions have ended and the migration has all that came. @throws what broke the connection */
async function pump(inner: Socket, outer: TLSSocket, carrier: TlsCarrier): Promise<void> {
  const { promise: outerClosed, resolve, reject } = Promise.withResolvers<void>();
  const innerDone = new Promise<void>((done) => {
    inner.once("finish", done);
    inner.once("close", () => done());
  });
  outer.once("error", reject);
  outer.once("close", resolve);
  // What still comes is read: a connection closed with input unread is reset, and the peer might miss what it was sent last.
  inner.once("close", () => outer.resume());
  inner.once("end", () => void sleep(LINGER_MS).then(() => outer.destroy()));
  outer.on("pause", () => carrier.holdBack(true));
  outer.on("resume", () => carrier.holdBack(false));
  outer.pipe(inner);
  inner.pipe(outer);
  await outerClosed;
  inner.end();
  await innerDone;
}

/** Fails with the connection, of whose end TLS does not always tell; when it does, its error says more. */
function failsWith(outer: Duplex): Promise<never> {
  return new Promise((_, reject) => {
    const rejectLater = (error: Error): void => void setTimeout(() => reject(error), GRACE_MS);
    outer.on("error", rejectLater);
    for (const event of ["end", "close"]) outer.once(event, () => rejectLater(new Error(CUT_SHORT)));
  });
}

async function failsLate(): Promise<never> {
  await sleep(HANDSHAKE_TIMEOUT_MS);
  throw new Error(
    `The other side did not agree on TLS within ${HANDSHAKE_TIMEOUT_MS / 1000} s: set tls-creds there too`,
  );
}

function sleep(durationMs: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, durationMs));
}

/** What to do about the codes that the runtimes share with Node. */
const ADVICE: readonly (readonly [code: RegExp, advice: string])[] = [
  [/WRONG_VERSION_NUMBER/, "The other side does not speak TLS: set tls-creds there too"],
  [/ALTNAME_INVALID/, "The server's certificate is for another host: set tls-hostname to a name that it has"],
  [
    /SELF_SIGNED|UNABLE_TO_VERIFY|UNABLE_TO_GET_ISSUER/,
    "The server's certificate is not trusted: it is not signed by one of those in DIR/ca-cert.pem",
  ],
  [/ALERT_UNKNOWN_CA/, "The other side does not trust this side's certificate: see ca-cert.pem there"],
  [/^CERT_HAS_EXPIRED$/, "The server's certificate has expired"],
  [/ECONNRESET|EPIPE/, "The other side ended the connection; it may have said why"],
];

function explain(error: unknown, { dir }: TlsCredentials): string {
  const { code = "" } = error as { code?: string };
  const advice = ADVICE.find(([pattern]) => pattern.test(code))?.[1].replace("DIR", dir);
  return advice === undefined ? describeError(error) : `${advice} (${describeError(error)})`;
}

let abort: ((reason: Error) => void) | undefined;
scope.onmessage = async ({ data }) => {
  if (data === "abort") {
    abort?.(new Error("The migration was given up"));
    return;
  }
  const { promise, reject } = Promise.withResolvers<never>();
  promise.catch(() => {});
  abort = reject;
  await serve(data, promise);
  scope.close();
};
