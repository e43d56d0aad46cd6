// SPDX-License-Identifier: Apache-2.0
// State images on their way to another process of this host: in memory that both have mapped. Through a socket the kernel
// would copy them twice, while the guest stands.
//
// Where the two main threads have a CPU each, the new side reads along: it restores one vCPU while the old side saves the next.
// It spins meanwhile, because to be woken up for each would take longer than that saves. On one CPU it is woken up at the end.
import { WASM_PAGE_SIZE_BYTES } from "../../assembly/layout.ts";
import { monotonicMs } from "../../ffi/clock.ts";
import { mapAnonymousOver, mapOver } from "../../ffi/mmap.ts";
import { currentCpu } from "../../ffi/process.ts";
import { VmmError } from "../errors.ts";
import { HEADER_SIZE_BYTES } from "../state/format.ts";
import { checkChecksum, StateReader } from "../state/reader.ts";
import type { Frame, FrameChannel } from "./channel/frames.ts";
import type { PlannedGuest } from "./guest-image.ts";
import { expectType, FRAME_FILLING, MAX_ANSWER_BYTES, subjectOf } from "./messages.ts";

/** Enough for the state of any VM but one with a console that was never read; a larger image goes through the socket. */
export const SHARED_IMAGE_SIZE_BYTES = 2 ** 20;
/** Four u32 come first: the size of the image, */
const SIZE_WORD = 0;
/** how many bytes from its start are as they will be, but for its header, */
const FILLED_WORD = 1;
/** and the CPUs that the two sides were on when they last looked, plus 1; 0 from a side that has not looked yet. */
const OLD_CPU_WORD = 2;
const NEW_CPU_WORD = 3;
const WORDS_SIZE_BYTES = 16;
const ROOM_BYTES = SHARED_IMAGE_SIZE_BYTES - WORDS_SIZE_BYTES;
const NOTHING = new Uint8Array(0);

/** Longer than any vCPU takes to be saved. */
const SPIN_MS = 1;

export interface SendOptions {
  /** FRAME_REHEARSE or FRAME_STATE: says that all of the image is there. */
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
    this.#words = new Uint32Array(memory.buffer, 0, WORDS_SIZE_BYTES / 4);
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
    const cpu = currentCpu() + 1;
    Atomics.store(this.#words, OLD_CPU_WORD, cpu);
    Atomics.store(this.#words, SIZE_WORD, planned.sizeBytes);
    Atomics.store(this.#words, FILLED_WORD, 0);
    let shownBytes = 0;
    const show = (image: Uint8Array, sizeBytes: number): void => {
      this.#image.set(image.subarray(shownBytes, sizeBytes), shownBytes);
      shownBytes = sizeBytes;
      Atomics.store(this.#words, FILLED_WORD, sizeBytes);
    };
    const newCpu = Atomics.load(this.#words, NEW_CPU_WORD);
    const isApart = newCpu !== 0 && newCpu !== cpu;
    if (isApart) channel.sendNow(FRAME_FILLING, Uint8Array.of(type), [], timeoutMs);
    const image = planned.take(isApart ? show : undefined);
    onTaken?.();
    this.#image.set(image.subarray(0, HEADER_SIZE_BYTES));
    show(image, image.length);
    channel.sendNow(type, NOTHING, [], timeoutMs);
  }

  /** New side: the image that an empty frame has announced: all of it is there. @throws VmmError "stream" */
  receive(): Uint8Array {
    const received = this.#makeRoom();
    received.set(this.#image.subarray(0, received.length));
    return received;
  }

  /** New side: the image that a frame FILLING on `channel` has announced. @throws VmmError "stream" */
  arrive(channel: FrameChannel, filling: Frame, timeoutMs: number): ArrivingImage {
    const received = this.#makeRoom();
    const type = subjectOf(filling);
    return new ArrivingImage({ words: this.#words, shared: this.#image, received, type, channel, timeoutMs });
  }

  #makeRoom(): Uint8Array {
    Atomics.store(this.#words, NEW_CPU_WORD, currentCpu() + 1);
    const sizeBytes = Atomics.load(this.#words, SIZE_WORD);
    if (sizeBytes < HEADER_SIZE_BYTES || sizeBytes > ROOM_BYTES) {
      throw new VmmError("stream", `An image of ${sizeBytes} bytes is announced in shared memory of ${ROOM_BYTES}`);
    }
    return this.#received.subarray(0, sizeBytes);
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
  /** Of the frame that says that all of it is there. */
  type: number;
  channel: FrameChannel;
  timeoutMs: number;
}

/** New side: an image that the other side is filling in. */
export class ArrivingImage {
  readonly #from: Arriving;
  #receivedBytes = 0;
  /** The other side has said that all of it is there. */
  #isComplete = false;
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
   * @throws VmmError "stream" when what comes makes no sense, "refused", and as `FrameChannel.receiveNow`
   */
  await(sizeBytes: number): void {
    const { shared, received, channel } = this.#from;
    while (this.#receivedBytes < sizeBytes) {
      const filledBytes = this.#awaitMore();
      if (filledBytes <= this.#receivedBytes || filledBytes > received.length) {
        const range = `${this.#receivedBytes + 1} to ${received.length}`;
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

  /** Blocks until the other side has said that all of it is there. @throws VmmError "state-refused" when it was damaged; as `await` */
  finish(): void {
    const { shared, received } = this.#from;
    this.await(received.length);
    this.#awaitFrame();
    // The checksum is in the header.
    received.set(shared.subarray(0, HEADER_SIZE_BYTES));
    checkChecksum(received);
  }

  /** How much is filled in, when that is more than was received or when the other side says that it is all. */
  #awaitMore(): number {
    const { words } = this.#from;
    // On one CPU the other side could do nothing while this one spins.
    const isApart = Atomics.load(words, OLD_CPU_WORD) !== currentCpu() + 1;
    const deadlineMs = monotonicMs() + SPIN_MS;
    do {
      const filledBytes = Atomics.load(words, FILLED_WORD);
      if (filledBytes !== this.#receivedBytes) return filledBytes;
    } while (isApart && monotonicMs() < deadlineMs);
    this.#awaitFrame();
    return Atomics.load(words, FILLED_WORD);
  }

  #awaitFrame(): void {
    const { channel, type, timeoutMs } = this.#from;
    if (!this.#isComplete) expectType(channel.receiveNow(MAX_ANSWER_BYTES, timeoutMs), type);
    this.#isComplete = true;
  }
}
