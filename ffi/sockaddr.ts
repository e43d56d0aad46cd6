// SPDX-License-Identifier: Apache-2.0
// Socket addresses as the kernel wants them, and names resolved to them with getaddrinfo(3).
import { SysError } from "./error.ts";
import { ENAMETOOLONG, lazyCall } from "./libc.ts";

/** bits/socket.h */
export const AF_UNSPEC = 0;
export const AF_UNIX = 1;
export const AF_INET = 2;
export const AF_INET6 = 10;
export const AF_NETLINK = 16;

/** linux/un.h: sizeof(sun_path), with its terminating zero. */
const UNIX_PATH_MAX = 108;

/** netdb.h */
const AI_PASSIVE = 0x1;
const SOCK_STREAM = 1;

/** struct addrinfo of glibc on x86-64. */
const ADDRINFO_SIZE_BYTES = 48;
const AI_FLAGS = 0;
const AI_FAMILY = 4;
const AI_SOCKTYPE = 8;
const AI_ADDRLEN = 16;
const AI_ADDR = 24;
const AI_NEXT = 40;

const cGetaddrinfo = lazyCall("int getaddrinfo(const char *node, const char *service, const void *hints, void *list)");
const cFreeaddrinfo = lazyCall("void freeaddrinfo(uint64_t list)");
const cGaiStrerror = lazyCall("uint64_t gai_strerror(int code)");
const cStrlen = lazyCall("size_t strlen(uint64_t text)");
const cMemcpy = lazyCall("uint64_t memcpy(void *target, uint64_t source, size_t length)");
const cInetNtop = lazyCall("uint64_t inet_ntop(int family, const void *address, void *text, unsigned int size)");

/** An address for people. Unix sockets have a `path` (empty when unnamed), the others `host` and `port`. */
export interface SocketAddress {
  family: number;
  path?: string;
  host?: string;
  port?: number;
}

/** struct sockaddr_un of a path. */
export function unixAddress(path: string): Uint8Array {
  const bytes = new TextEncoder().encode(path);
  if (bytes.length >= UNIX_PATH_MAX) throw new SysError("bind", ENAMETOOLONG, path);
  const address = new Uint8Array(2 + bytes.length + 1);
  address[0] = AF_UNIX;
  address.set(bytes, 2);
  return address;
}

/**
 * Addresses of a host and port (name or number), in getaddrinfo's order of preference. Blocks while a name server is
 * asked. An empty host means every address of this machine when `passive`, else the loopback.
 */
export function resolve(
  host: string,
  port: string,
  options: { family?: number; passive?: boolean } = {},
): Uint8Array[] {
  const hints = new Uint8Array(ADDRINFO_SIZE_BYTES);
  const view = new DataView(hints.buffer);
  view.setInt32(AI_FLAGS, options.passive ? AI_PASSIVE : 0, true);
  view.setInt32(AI_FAMILY, options.family ?? AF_UNSPEC, true);
  view.setInt32(AI_SOCKTYPE, SOCK_STREAM, true);
  const list = new BigUint64Array(1);
  const code = cGetaddrinfo(host === "" ? null : host, port, hints, list);
  if (code !== 0) throw new Error(`Cannot resolve ${host}:${port} (${resolverMessage(code)})`);
  const addresses: Uint8Array[] = [];
  try {
    // SAFETY: glibc owns the list until freeaddrinfo; every entry is copied out before that.
    for (let entry = list[0]!; entry !== 0n; ) {
      const raw = copyFrom(entry, ADDRINFO_SIZE_BYTES);
      const info = new DataView(raw.buffer);
      addresses.push(copyFrom(info.getBigUint64(AI_ADDR, true), info.getUint32(AI_ADDRLEN, true)));
      entry = info.getBigUint64(AI_NEXT, true);
    }
  } finally {
    cFreeaddrinfo(list[0]!);
  }
  return addresses;
}

function resolverMessage(code: number): string {
  // SAFETY: gai_strerror answers a static string. lazyCall turns -1 (EAI_BADFLAGS) into an errno: no code is positive.
  const text = BigInt(cGaiStrerror(code));
  return new TextDecoder().decode(copyFrom(text, cStrlen(text)));
}

/** SAFETY: the caller vouches that `sizeBytes` bytes at `address` are mapped and stay so during the call. */
function copyFrom(address: bigint, sizeBytes: number): Uint8Array<ArrayBuffer> {
  const copy = new Uint8Array(sizeBytes);
  cMemcpy(copy, address, sizeBytes);
  return copy;
}

/** Reads a struct sockaddr_un, sockaddr_in or sockaddr_in6. */
export function decodeAddress(raw: Uint8Array): SocketAddress {
  const family = raw[0]! | (raw[1]! << 8);
  if (family === AF_UNIX) {
    const path = raw.subarray(2);
    const end = path.indexOf(0);
    return { family, path: new TextDecoder().decode(end < 0 ? path : path.subarray(0, end)) };
  }
  const port = (raw[2]! << 8) | raw[3]!;
  const text = new Uint8Array(64);
  cInetNtop(family, raw.slice(family === AF_INET ? 4 : 8), text, text.length);
  return { family, host: new TextDecoder().decode(text.subarray(0, text.indexOf(0))), port };
}
