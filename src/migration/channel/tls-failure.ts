// SPDX-License-Identifier: Apache-2.0
// Why a TLS connection broke: one line of text in shared memory. Whoever finds its end of the tunnel closed, be it in the
// guest's pause where no message arrives, finds the reason here at once.

const LENGTH_WORD = 0;
const TEXT_BYTE = 4;
const SIZE_BYTES = 2048;

export class TlsFailure {
  readonly buffer: SharedArrayBuffer;
  readonly #words: Int32Array;
  readonly #text: Uint8Array;

  constructor(buffer = new SharedArrayBuffer(SIZE_BYTES)) {
    this.buffer = buffer;
    this.#words = new Int32Array(buffer);
    this.#text = new Uint8Array(buffer, TEXT_BYTE);
  }

  /** Keeps the first reason; the tunnel's end is closed after that. */
  report(reason: string): void {
    if (this.reason !== undefined) return;
    const bytes = new TextEncoder().encode(reason).subarray(0, this.#text.length);
    this.#text.set(bytes);
    Atomics.store(this.#words, LENGTH_WORD, bytes.length);
  }

  get reason(): string | undefined {
    const length = Atomics.load(this.#words, LENGTH_WORD);
    // TextDecoder takes no shared memory.
    return length === 0 ? undefined : new TextDecoder().decode(this.#text.slice(0, length));
  }
}
