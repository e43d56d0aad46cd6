// SPDX-License-Identifier: Apache-2.0
// Who may run a guest whose RAM two processes have mapped: one word in a page that both share.
//
//          old                                  new
//   HELD ── offer ─▶ OFFERED ── take ─▶ TAKEN
//     │                 └── withdraw ─▶ WITHDRAWN
//     └─────────────────── withdraw ─▶ WITHDRAWN
//
// `take` and `withdraw` are compare-and-swap on the same word: exactly one of them succeeds, whatever happens to the
// messages between the processes, or to the processes. Behind the page, in the same file, is room for a shared-image.ts.
import {
  FENCE_BASE,
  FENCE_HELD,
  FENCE_OFFERED,
  FENCE_OWNER,
  FENCE_TAKEN,
  FENCE_WITHDRAWN,
} from "../../assembly/layout.ts";
import { close, status } from "../../ffi/fd.ts";
import { F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, getSeals, memfdCreate } from "../../ffi/memfd.ts";
import { mapAnonymousOver, mapOver } from "../../ffi/mmap.ts";
import { VmmError } from "../errors.ts";
import { SHARED_IMAGE_SIZE_BYTES, SharedImage } from "./shared-image.ts";

const PAGE_SIZE_BYTES = 4096;
export const FENCE_FILE_SIZE_BYTES = PAGE_SIZE_BYTES + SHARED_IMAGE_SIZE_BYTES;
/** Without these the peer could cut pages away, and touching them would kill this process. */
const SEALS = F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL;

export class Fence {
  readonly fd: number;
  /** What goes from the old side to the new one. */
  readonly image: SharedImage;
  readonly #memory: WebAssembly.Memory;
  readonly #word: Int32Array;

  private constructor(memory: WebAssembly.Memory, fd: number) {
    this.fd = fd;
    this.#memory = memory;
    mapOver(new Uint8Array(memory.buffer), FENCE_BASE, { fd, sizeBytes: PAGE_SIZE_BYTES });
    this.#word = new Int32Array(memory.buffer, FENCE_OWNER, 1);
    // A page fault, which is not to be taken while the guest stands.
    Atomics.load(this.#word, 0);
    this.image = new SharedImage(fd, PAGE_SIZE_BYTES);
  }

  /** The old side's: it holds the guest. */
  static create(memory: WebAssembly.Memory): Fence {
    return new Fence(memory, memfdCreate("baton-fence", FENCE_FILE_SIZE_BYTES, { seals: SEALS }));
  }

  /** The new side's, from the old one's fd, which is the fence's from then on. @throws VmmError "state-refused" */
  static join(memory: WebAssembly.Memory, fd: number): Fence {
    if (status(fd).sizeBytes !== FENCE_FILE_SIZE_BYTES || (getSeals(fd) & SEALS) !== SEALS) {
      throw new VmmError("state-refused", "The fence of the other side is not the sealed file that it should be");
    }
    return new Fence(memory, fd);
  }

  /** Old side: the new one may run the guest now. Only of a guest that is held and stands. */
  offer(): void {
    Atomics.compareExchange(this.#word, 0, FENCE_HELD, FENCE_OFFERED);
  }

  /** New side: true when the guest is its own from now on, and runs nowhere else ever again. */
  take(): boolean {
    return Atomics.compareExchange(this.#word, 0, FENCE_OFFERED, FENCE_TAKEN) === FENCE_OFFERED;
  }

  /** Old side: false when the new one has taken the guest already; else it never will. */
  withdraw(): boolean {
    if (Atomics.compareExchange(this.#word, 0, FENCE_HELD, FENCE_WITHDRAWN) === FENCE_HELD) return true;
    const before = Atomics.compareExchange(this.#word, 0, FENCE_OFFERED, FENCE_WITHDRAWN);
    return before === FENCE_OFFERED || before === FENCE_WITHDRAWN;
  }

  close(): void {
    mapAnonymousOver(new Uint8Array(this.#memory.buffer), FENCE_BASE, PAGE_SIZE_BYTES);
    this.image.close();
    close(this.fd);
  }
}
