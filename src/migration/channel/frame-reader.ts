// SPDX-License-Identifier: Apache-2.0
// Frames out of an fd, trusting nothing in them: whoever calls waits.
import { close, read } from "../../../ffi/fd.ts";
import { HeadedInput } from "../../../ffi/headed-message.ts";
import { SCM_MAX_FD } from "../../../ffi/scm.ts";
import { VmmError } from "../../errors.ts";
import { crc32 } from "../../runtime/checksum.ts";
import {
  FLAG_FDS_OPTIONAL,
  FRAME_CRC_OFFSET,
  FRAME_FD_COUNT_OFFSET,
  FRAME_FLAGS_OFFSET,
  FRAME_HEADER_SIZE_BYTES,
  FRAME_MAGIC,
  FRAME_MAGIC_OFFSET,
  FRAME_PAYLOAD_SIZE_OFFSET,
  FRAME_RESERVED_OFFSET,
  FRAME_SEQUENCE_OFFSET,
  FRAME_TYPE_OFFSET,
  FRAME_VERSION,
  FRAME_VERSION_OFFSET,
  type Frame,
} from "./frame-format.ts";

const NOTHING = new Uint8Array(0);

export class FrameReader {
  readonly #name: string;
  readonly #isUnix: boolean;
  readonly #input: HeadedInput;
  readonly #header: DataView;
  readonly #covered: Uint8Array;
  #sequence = 0;
  #headerDone = 0;
  #payload: Uint8Array | undefined;
  #payloadDone = 0;

  /** `name` is the stream's, for errors. `isUnix`: whether it can bring fds. */
  constructor(name: string, isUnix: boolean) {
    this.#name = name;
    this.#isUnix = isUnix;
    this.#input = new HeadedInput(FRAME_HEADER_SIZE_BYTES, isUnix);
    const { head } = this.#input;
    this.#header = new DataView(head.buffer, head.byteOffset, FRAME_HEADER_SIZE_BYTES);
    this.#covered = head.subarray(0, FRAME_CRC_OFFSET);
  }

  /** Part of a frame has been read. */
  get isInFrame(): boolean {
    return this.#headerDone > 0;
  }

  /**
   * Reads on: a complete frame, or `would-block`, or `ended` when the stream is over. In the latter case `isInFrame` tells
   * whether that was between two frames.
   *
   * @param limitBytes the most that a payload may have; checked before memory is taken
   * @param buffer where to put a payload that fits; the frame's payload is a view of it then
   * @throws VmmError "stream" for what is no frame, or not the one that had to come; SysError of the fd. The fds that came
   * are closed then, and the reader can not be used any more
   */
  read(fd: number, limitBytes: number, buffer?: Uint8Array): Frame | "would-block" | "ended" {
    while (this.#headerDone < FRAME_HEADER_SIZE_BYTES) {
      const count = this.#input.readHead(fd, this.#headerDone);
      if (count === undefined) return "would-block";
      if (count === 0) return "ended";
      this.#headerDone += count;
      if (this.#input.hasLostFds || this.#input.fds.length > SCM_MAX_FD) {
        this.#refuse(
          `at most ${SCM_MAX_FD} file descriptors with a frame, and more came than that or than this process may open`,
        );
      }
    }
    this.#payload ??= this.#checkHeader(limitBytes, buffer);
    const payload = this.#payload;
    while (this.#payloadDone < payload.byteLength) {
      const count = read(fd, this.#payloadDone === 0 ? payload : payload.subarray(this.#payloadDone));
      if (count === undefined) return "would-block";
      if (count === 0) return "ended";
      this.#payloadDone += count;
    }
    return this.#takeFrame(payload);
  }

  /** Where the stream is: `12 of 32 header bytes`. */
  get progress(): string {
    if (this.#payload === undefined) return `${this.#headerDone} of ${FRAME_HEADER_SIZE_BYTES} header bytes`;
    return `${this.#payloadDone} of ${this.#payload.byteLength} payload bytes of frame ${this.#sequence}`;
  }

  /** Closes the fds of a frame that has not been taken. */
  dispose(): void {
    for (const fd of this.#input.fds) close(fd);
    this.#input.fds.length = 0;
  }

  /** Returns the memory for the payload. */
  #checkHeader(limitBytes: number, buffer: Uint8Array | undefined): Uint8Array {
    const header = this.#header;
    const magic = header.getUint32(FRAME_MAGIC_OFFSET, true);
    if (magic !== FRAME_MAGIC) this.#refuse(`magic ${hex(FRAME_MAGIC)}`, hex(magic));
    const version = header.getUint16(FRAME_VERSION_OFFSET, true);
    if (version !== FRAME_VERSION) this.#refuse(`protocol version ${FRAME_VERSION}`, String(version));
    const checksum = crc32(this.#covered);
    const crc = header.getUint32(FRAME_CRC_OFFSET, true);
    if (crc !== checksum) this.#refuse(`header checksum ${hex(checksum)}`, hex(crc));
    const flags = header.getUint32(FRAME_FLAGS_OFFSET, true);
    if ((flags & ~FLAG_FDS_OPTIONAL) !== 0) this.#refuse("no flags but 0x1", hex(flags));
    for (let offset = FRAME_RESERVED_OFFSET; offset < FRAME_CRC_OFFSET; offset += 2) {
      const reserved = header.getUint16(offset, true);
      if (reserved !== 0) this.#refuse("zero in reserved bytes", hex(reserved));
    }
    const sequence = header.getUint32(FRAME_SEQUENCE_OFFSET, true);
    if (sequence !== this.#sequence) this.#refuse(`sequence number ${this.#sequence}`, String(sequence));
    const sizeBytes = header.getUint32(FRAME_PAYLOAD_SIZE_OFFSET, true);
    if (sizeBytes > limitBytes) this.#refuse(`at most ${limitBytes} payload bytes`, String(sizeBytes));
    this.#checkFds(header.getUint16(FRAME_FD_COUNT_OFFSET, true), (flags & FLAG_FDS_OPTIONAL) !== 0);
    if (sizeBytes === 0) return NOTHING;
    return buffer !== undefined && sizeBytes <= buffer.byteLength
      ? buffer.subarray(0, sizeBytes)
      : new Uint8Array(sizeBytes);
  }

  #checkFds(announced: number, areOptional: boolean): void {
    if (announced > 0 && !this.#isUnix) {
      this.#refuse("no file descriptors on what is no unix socket", `${announced} announced`);
    }
    const came = this.#input.fds.length;
    if (areOptional && came === 0) return;
    if (announced !== came) this.#refuse(`the ${announced} file descriptors that the header announces`, String(came));
  }

  #refuse(expected: string, found?: string): never {
    this.dispose();
    const what = found === undefined ? expected : `${expected}, found ${found}`;
    throw new VmmError("stream", `Frame ${this.#sequence} from ${this.#name}: expected ${what}`);
  }

  #takeFrame(payload: Uint8Array): Frame {
    const fds: number[] = [];
    const received = this.#input.fds;
    for (let index = 0; index < received.length; index++) fds.push(received[index]!);
    received.length = 0;
    this.#sequence = (this.#sequence + 1) >>> 0;
    this.#headerDone = 0;
    this.#payload = undefined;
    this.#payloadDone = 0;
    return { type: this.#header.getUint16(FRAME_TYPE_OFFSET, true), payload, fds };
  }
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
