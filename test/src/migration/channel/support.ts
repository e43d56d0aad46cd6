// SPDX-License-Identifier: Apache-2.0
// Transports without addresses, and frames made by hand, for tests of migration channels.
import { close, O_NONBLOCK, pipe } from "../../../../ffi/fd.ts";
import { socketPair } from "../../../../ffi/socket.ts";
import type { Transport } from "../../../../src/migration/channel/transport.ts";
import { crc32 } from "../../../../src/runtime/checksum.ts";

export function transportOn(
  fd: number,
  name: string,
  options: { isUnix?: boolean; isDuplex?: boolean } = {},
): Transport {
  let isOpen = true;
  return {
    fd,
    name,
    isUnix: options.isUnix ?? true,
    isDuplex: options.isDuplex ?? true,
    finished: () => Promise.resolve(),
    abandon: () => {},
    close: () => {
      if (isOpen) close(fd);
      isOpen = false;
    },
  };
}

/** Both ends of a unix socket pair. */
export function transportPair(): [Transport, Transport] {
  const [one, other] = socketPair();
  return [transportOn(one, "unix:one"), transportOn(other, "unix:other")];
}

/** A pipe's ends: to write to, to read from. */
export function pipePair(): [Transport, Transport] {
  const { readFd, writeFd } = pipe(O_NONBLOCK);
  const options = { isUnix: false, isDuplex: false };
  return [transportOn(writeFd, "fd:to", options), transportOn(readFd, "fd:from", options)];
}

export interface RawHeader {
  magic?: number;
  version?: number;
  type?: number;
  flags?: number;
  sequence?: number;
  sizeBytes?: number;
  fdCount?: number;
  reserved?: number;
  crc?: number;
}

/** A frame as src/migration/channel/frame-format.ts draws it, written down a second time: with anything wrong with it. */
export function rawFrame(payload: Uint8Array, header: RawHeader = {}): Uint8Array {
  const frame = new Uint8Array(32 + payload.byteLength);
  const view = new DataView(frame.buffer);
  view.setUint32(0, header.magic ?? 0x464e5442, true);
  view.setUint16(4, header.version ?? 1, true);
  view.setUint16(6, header.type ?? 7, true);
  view.setUint32(8, header.flags ?? 0, true);
  view.setUint32(12, header.sequence ?? 0, true);
  view.setUint32(16, header.sizeBytes ?? payload.byteLength, true);
  view.setUint16(20, header.fdCount ?? 0, true);
  view.setUint32(24, header.reserved ?? 0, true);
  view.setUint32(28, header.crc ?? crc32(frame.subarray(0, 28)), true);
  frame.set(payload, 32);
  return frame;
}
