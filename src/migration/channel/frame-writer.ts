// SPDX-License-Identifier: Apache-2.0
// Frames into an fd, as far as it takes them: whoever calls waits.
import { HeadedOutput } from "../../../ffi/headed-message.ts";
import { crc32 } from "../../runtime/checksum.ts";
import {
  FRAME_CRC_OFFSET,
  FRAME_FD_COUNT_OFFSET,
  FRAME_FLAGS_OFFSET,
  FRAME_HEADER_SIZE_BYTES,
  FRAME_MAGIC,
  FRAME_MAGIC_OFFSET,
  FRAME_PAYLOAD_SIZE_OFFSET,
  FRAME_SEQUENCE_OFFSET,
  FRAME_TYPE_OFFSET,
  FRAME_VERSION,
  FRAME_VERSION_OFFSET,
} from "./frame-format.ts";

const NOTHING = new Uint8Array(0);
const NO_FDS: readonly number[] = [];

export class FrameWriter {
  readonly #output: HeadedOutput;
  readonly #header: DataView;
  readonly #covered: Uint8Array;
  #sequence = 0;
  #payload: Uint8Array = NOTHING;
  #fds: readonly number[] = NO_FDS;
  #done = 0;

  constructor(isSocket: boolean) {
    this.#output = new HeadedOutput(FRAME_HEADER_SIZE_BYTES, isSocket);
    const { head } = this.#output;
    this.#header = new DataView(head.buffer, head.byteOffset, FRAME_HEADER_SIZE_BYTES);
    this.#covered = head.subarray(0, FRAME_CRC_OFFSET);
    this.#header.setUint32(FRAME_MAGIC_OFFSET, FRAME_MAGIC, true);
    this.#header.setUint16(FRAME_VERSION_OFFSET, FRAME_VERSION, true);
  }

  /** Takes the next frame. The one before it must have been written to its end. */
  begin(type: number, payload: Uint8Array, fds: readonly number[], flags = 0): void {
    const header = this.#header;
    header.setUint16(FRAME_TYPE_OFFSET, type, true);
    header.setUint32(FRAME_FLAGS_OFFSET, flags, true);
    header.setUint32(FRAME_SEQUENCE_OFFSET, this.#sequence, true);
    header.setUint32(FRAME_PAYLOAD_SIZE_OFFSET, payload.byteLength, true);
    header.setUint16(FRAME_FD_COUNT_OFFSET, fds.length, true);
    header.setUint32(FRAME_CRC_OFFSET, crc32(this.#covered), true);
    this.#sequence = (this.#sequence + 1) >>> 0;
    this.#payload = payload;
    this.#fds = fds;
    this.#done = 0;
  }

  /** Writes on; true when the frame is complete, false when the fd takes no more now. @throws SysError */
  write(fd: number): boolean {
    const size = FRAME_HEADER_SIZE_BYTES + this.#payload.byteLength;
    while (this.#done < size) {
      const count = this.#output.write(fd, this.#payload, this.#done, this.#fds);
      if (count === undefined) return false;
      this.#done += count;
    }
    this.#payload = NOTHING;
    this.#fds = NO_FDS;
    return true;
  }
}
