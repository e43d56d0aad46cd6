// SPDX-License-Identifier: Apache-2.0
// State images on their way to another process of this host: in memory that both have mapped. Through a socket the kernel
// would copy them twice, while the guest stands.
import { WASM_PAGE_SIZE_BYTES } from "../../assembly/layout.ts";
import { mapAnonymousOver, mapOver } from "../../ffi/mmap.ts";
import { VmmError } from "../errors.ts";
import type { Frame, FrameChannel } from "./channel/frames.ts";

/** Enough for the state of any VM but one with a console that was never read; a larger image goes through the socket. */
export const SHARED_IMAGE_SIZE_BYTES = 2 ** 20;
/** The size of the image comes first. */
const HEADER_SIZE_BYTES = 4;
const NOTHING = new Uint8Array(0);

export class SharedImage {
  readonly #shared: Uint8Array;
  readonly #size: DataView;
  /** What has been received; the peer cannot change it any more. */
  readonly #received = new Uint8Array(SHARED_IMAGE_SIZE_BYTES);

  /** @param fd a memory file that nobody can shrink, with room from `fileOffset` on; stays the caller's */
  constructor(fd: number, fileOffset: number) {
    const pages = SHARED_IMAGE_SIZE_BYTES / WASM_PAGE_SIZE_BYTES;
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    this.#shared = new Uint8Array(memory.buffer);
    this.#size = new DataView(memory.buffer, 0, HEADER_SIZE_BYTES);
    mapOver(this.#shared, 0, { fd, fileOffset, sizeBytes: SHARED_IMAGE_SIZE_BYTES });
  }

  /** Old side: sends an image as `FrameChannel.sendNow` does; the frame is empty when the image is in the shared memory. */
  send(channel: FrameChannel, type: number, image: Uint8Array, timeoutMs: number): void {
    let payload = image;
    if (image.length <= SHARED_IMAGE_SIZE_BYTES - HEADER_SIZE_BYTES) {
      this.#size.setUint32(0, image.length, true);
      this.#shared.set(image, HEADER_SIZE_BYTES);
      payload = NOTHING;
    }
    channel.sendNow(type, payload, [], timeoutMs);
  }

  /** New side: the image of a frame; good until the next one. @throws VmmError "stream" */
  imageOf({ payload }: Frame): Uint8Array {
    if (payload.length > 0) return payload;
    const sizeBytes = this.#size.getUint32(0, true);
    const roomBytes = SHARED_IMAGE_SIZE_BYTES - HEADER_SIZE_BYTES;
    if (sizeBytes > roomBytes) {
      throw new VmmError("stream", `An image of ${sizeBytes} bytes is announced in shared memory of ${roomBytes}`);
    }
    const image = this.#received.subarray(0, sizeBytes);
    image.set(this.#shared.subarray(HEADER_SIZE_BYTES, HEADER_SIZE_BYTES + sizeBytes));
    return image;
  }

  close(): void {
    mapAnonymousOver(this.#shared, 0, SHARED_IMAGE_SIZE_BYTES);
  }
}
