// SPDX-License-Identifier: Apache-2.0
// State images on their way to another process of this host: in memory that both have mapped. Through a socket the kernel
// would copy them twice, while the guest stands. And the new side reads along: it restores one vCPU while the old side
// saves the next.
import { WASM_PAGE_SIZE_BYTES } from "../../assembly/layout.ts";
import { monotonicMs } from "../../ffi/clock.ts";
import { mapAnonymousOver, mapOver } from "../../ffi/mmap.ts";
import { yieldCpu } from "../../ffi/process.ts";
import { VmmError } from "../errors.ts";
import { HEADER_SIZE_BYTES } from "../state/format.ts";
import { checkChecksum, StateReader } from "../state/reader.ts";
import type { FrameChannel } from "./channel/frames.ts";
import type { PlannedGuest } from "./guest-image.ts";
import { expectType, MAX_ANSWER_BYTES } from "./messages.ts";

/** Enough for the state of any VM but one with a console that was never read; a larger image goes through the socket. */
export const SHARED_IMAGE_SIZE_BYTES = 2 ** 20;
/** Two u32 come first: the size of the image, and how many bytes from its start are as they will be, but for its header. */
const SIZE_WORD = 0;
const FILLED_WORD = 1;
const WORDS_SIZE_BYTES = 8;
const ROOM_BYTES = SHARED_IMAGE_SIZE_BYTES - WORDS_SIZE_BYTES;
const NOTHING = new Uint8Array(0);

/** Of half a microsecond each: longer than any vCPU takes to be saved. */
const MAX_YIELDS = 2000;
/** How often somebody who is slower than that is looked at. */
const LOOK_MS = 1;

export interface SendOptions {
  /** FRAME_REHEARSE or FRAME_STATE */
  type: number;
  timeoutMs: number;
  /** Called when all of the image is taken, before the other side can see that. */
  onTaken?: () => void;
}

export class SharedImage {
  readonly #memory: Uint8Array;
  readonly #words: Uint32Array;
  readonly #image: Uint8Array;
  /** What has been received; the peer cannot change it any more. */
  readonly #received = new Uint8Array(ROOM_BYTES);

  /** @param fd a memory file that nobody can shrink, with room from `fileOffset` on; stays the caller's */
  constructor(fd: number, fileOffset: number) {
    const pages = SHARED_IMAGE_SIZE_BYTES / WASM_PAGE_SIZE_BYTES;
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    this.#memory = new Uint8Array(memory.buffer);
    this.#words = new Uint32Array(memory.buffer, 0, 2);
    this.#image = this.#memory.subarray(WORDS_SIZE_BYTES);
    mapOver(this.#memory, 0, { fd, fileOffset, sizeBytes: SHARED_IMAGE_SIZE_BYTES });
  }

  /** Old side: takes the image of a guest planned with `isFixed`, and sends it. Blocks as `FrameChannel.sendNow` does. */
  send(channel: FrameChannel, planned: PlannedGuest, { type, timeoutMs, onTaken }: SendOptions): void {
    if (planned.sizeBytes > ROOM_BYTES) {
      const image = planned.take();
      onTaken?.();
      channel.sendNow(type, image, [], timeoutMs);
      return;
    }
    Atomics.store(this.#words, SIZE_WORD, planned.sizeBytes);
    Atomics.store(this.#words, FILLED_WORD, 0);
    // The other side wakes up while the first of it is saved.
    channel.sendNow(type, NOTHING, [], timeoutMs);
    let shownBytes = 0;
    const show = (image: Uint8Array, sizeBytes: number): void => {
      this.#image.set(image.subarray(shownBytes, sizeBytes), shownBytes);
      shownBytes = sizeBytes;
      Atomics.store(this.#words, FILLED_WORD, sizeBytes);
    };
    const image = planned.take(show);
    onTaken?.();
    this.#image.set(image.subarray(0, HEADER_SIZE_BYTES));
    show(image, image.length);
  }

  /** New side: the image that an empty frame on `channel` has announced. @throws VmmError "stream" */
  arrive(channel: FrameChannel, timeoutMs: number): ArrivingImage {
    const sizeBytes = Atomics.load(this.#words, SIZE_WORD);
    if (sizeBytes < HEADER_SIZE_BYTES || sizeBytes > ROOM_BYTES) {
      throw new VmmError("stream", `An image of ${sizeBytes} bytes is announced in shared memory of ${ROOM_BYTES}`);
    }
    const received = this.#received.subarray(0, sizeBytes);
    return new ArrivingImage({ words: this.#words, shared: this.#image, received, channel, timeoutMs });
  }

  close(): void {
    mapAnonymousOver(this.#memory, 0, SHARED_IMAGE_SIZE_BYTES);
  }
}

interface Arriving {
  words: Uint32Array;
  shared: Uint8Array;
  /** As long as the image. */
  received: Uint8Array;
  /** That nothing comes on but the other side's end. */
  channel: FrameChannel;
  timeoutMs: number;
}

/** New side: an image that the other side is filling in. */
export class ArrivingImage {
  readonly #from: Arriving;
  #receivedBytes = 0;
  /** When the last of it came: ms on CLOCK_MONOTONIC. */
  completeMs = 0;

  constructor(from: Arriving) {
    this.#from = from;
  }

  /** Waits for the directory. What the reader gives is good after `await`. @throws VmmError as `StateReader`, and as `await` */
  read(known: Readonly<Record<string, number>>): StateReader {
    this.await(HEADER_SIZE_BYTES);
    return new StateReader(this.#from.received, known, { isArriving: true });
  }

  /**
   * Blocks until the first `sizeBytes` bytes are here.
   * @throws VmmError "stream" when what comes makes no sense, "peer-gone", "refused", "peer-silent" when nothing comes for as
   * long as the timeout
   */
  await(sizeBytes: number): void {
    const { shared, received, channel } = this.#from;
    while (this.#receivedBytes < sizeBytes) {
      const filledBytes = this.#awaitMore();
      if (filledBytes < this.#receivedBytes || filledBytes > received.length) {
        const range = `${this.#receivedBytes} to ${received.length}`;
        throw new VmmError(
          "stream",
          `${channel.transport.name} filled in ${filledBytes} bytes of an image, out of ${range}`,
        );
      }
      received.set(shared.subarray(this.#receivedBytes, filledBytes), this.#receivedBytes);
      this.#receivedBytes = filledBytes;
    }
    if (this.completeMs === 0 && this.#receivedBytes === received.length) this.completeMs = monotonicMs();
  }

  /** Blocks until all of it is here. @throws VmmError "state-refused" when it is not what was written, and as `await` */
  finish(): void {
    const { shared, received } = this.#from;
    this.await(received.length);
    // The checksum is in the header.
    received.set(shared.subarray(0, HEADER_SIZE_BYTES));
    checkChecksum(received);
  }

  /**
   * How much is filled in when that is more than has been received. Spins: the other side is at work right now, and waking
   * somebody up costs half as much as saving a vCPU. The rehearsals have compiled this.
   */
  #awaitMore(): number {
    const { words, channel, timeoutMs } = this.#from;
    for (let yields = 0; yields < MAX_YIELDS; yields++) {
      const filledBytes = Atomics.load(words, FILLED_WORD);
      if (filledBytes !== this.#receivedBytes) return filledBytes;
      yieldCpu();
    }
    const deadlineMs = monotonicMs() + timeoutMs;
    for (;;) {
      const filledBytes = Atomics.load(words, FILLED_WORD);
      if (filledBytes !== this.#receivedBytes) return filledBytes;
      try {
        expectType(channel.receiveNow(MAX_ANSWER_BYTES, LOOK_MS));
      } catch (error) {
        if (!(error instanceof VmmError && error.code === "peer-silent")) throw error;
      }
      if (monotonicMs() > deadlineMs) {
        const { name } = channel.transport;
        throw new VmmError("peer-silent", `${name} did not fill in its image within ${timeoutMs} ms`);
      }
    }
  }
}
