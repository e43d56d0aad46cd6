// SPDX-License-Identifier: Apache-2.0
// Bytes on their way to the host, in one growing buffer.

const INITIAL_SIZE_BYTES = 4096;

export class OutputQueue {
  #buffer = new Uint8Array(0);
  #start = 0;
  #end = 0;

  get byteLength(): number {
    return this.#end - this.#start;
  }

  push(bytes: Uint8Array): void {
    this.#reserve(bytes.byteLength);
    this.#buffer.set(bytes, this.#end);
    this.#end += bytes.byteLength;
  }

  /** All queued bytes, oldest first; good until the next call. */
  peek(): Uint8Array {
    return this.#buffer.subarray(this.#start, this.#end);
  }

  /** Forgets the oldest bytes. */
  consume(byteCount: number): void {
    this.#start += byteCount;
    if (this.#start === this.#end) this.#start = this.#end = 0;
  }

  clear(): void {
    // A burst's memory is not kept for ever.
    this.#buffer = new Uint8Array(0);
    this.#start = this.#end = 0;
  }

  #reserve(byteCount: number): void {
    if (this.#end + byteCount <= this.#buffer.byteLength) return;
    const used = this.byteLength;
    // Moving to the front is worth it only when it frees at least as much as it copies.
    const isRoomy = used + byteCount <= this.#buffer.byteLength && this.#start >= used;
    const target = isRoomy
      ? this.#buffer
      : new Uint8Array(Math.max(INITIAL_SIZE_BYTES, 2 * this.#buffer.byteLength, used + byteCount));
    target.set(this.peek());
    this.#buffer = target;
    this.#start = 0;
    this.#end = used;
  }
}
