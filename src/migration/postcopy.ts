// SPDX-License-Identifier: Apache-2.0
// Post-copy, the old side: the guest goes on elsewhere before all of its RAM is there, and this side serves the rest.
//
//   guest runs    round     ends early
//                 POSTCOPY  the pages that are left: what the other side has of them is stale, and dropped
//   ┌ pause       park
//   │             MISSING   the same, of this moment: what was written since the last time. Requests are served from here on
//   │             STATE … READY, COMMIT ── point of no return ── RUNNING: as without post-copy
//   └
//   guest runs    pages     the rest of RAM, those asked for first
//   over there    ◀── DONE
import { DIRTY_BITMAP_SIZE_BYTES, PAGE_SIZE_BYTES } from "../../assembly/layout.ts";
import { setNonBlocking } from "../../ffi/fd.ts";
import { widenUnixSocket } from "../../ffi/socket.ts";
import { VmmError } from "../errors.ts";
import type { Vm } from "../machine/vm.ts";
import type { MigrationStats } from "../qmp/schema/migration.ts";
import type { FrameChannel } from "./channel/frames.ts";
import { expectFrame, FRAME_ACCEPTED, FRAME_DONE, FRAME_MISSING, FRAME_POSTCOPY } from "./messages.ts";
import { RamCrew, type RoundStats } from "./ram/crew.ts";
import { loadDirtyModule } from "./ram/dirty-module.ts";

/** Sending the bitmap takes a millisecond; the guest stands. */
const TIMEOUT_MS = 5000;
/** How long the reason for a broken connection is waited for. */
const REASON_TIMEOUT_MS = 2000;
const SOCKET_SIZE_BYTES = 1 << 20;

export interface PostcopyConnections {
  urgentFd: number;
  backgroundFd: number;
}

export class PostcopySource implements AsyncDisposable {
  readonly #vm: Vm;
  readonly #crew: RamCrew;
  readonly #module: ReturnType<typeof loadDirtyModule>;
  #serving: Promise<RoundStats> | undefined;
  #bitmap = 0;

  /** The fds stay the caller's. `bandwidth`: bytes per second of the pages that nobody asks for, 0 for no limit. */
  constructor(vm: Vm, { urgentFd, backgroundFd }: PostcopyConnections, bandwidth: number) {
    for (const fd of [urgentFd, backgroundFd]) setNonBlocking(fd, true);
    widenUnixSocket(backgroundFd, SOCKET_SIZE_BYTES);
    this.#vm = vm;
    this.#module = loadDirtyModule(vm.memory);
    const place = { memory: vm.memory, ramBase: vm.ram.base, ramSizeBytes: vm.ram.backend.sizeBytes };
    this.#crew = new RamCrew(place, [backgroundFd], { kind: "serve-pages", urgentFd });
    this.#crew.shared.bandwidth = bandwidth;
  }

  /** Tells the other side what it is to drop, before the pause: then little is left to be dropped in it. */
  async announce(main: FrameChannel, bitmap: number): Promise<void> {
    await main.send(FRAME_POSTCOPY, this.#bytes(bitmap));
    await expectFrame(main, FRAME_ACCEPTED);
  }

  /** In the pause: serves the pages of the bitmap from now on, when they are asked for. */
  begin(main: FrameChannel, bitmap: number): void {
    main.sendNow(FRAME_MISSING, this.#bytes(bitmap), [], TIMEOUT_MS);
    this.#bitmap = bitmap;
    this.#serving = this.#crew.run({ bitmap });
    // Whoever calls `finish` hears of it.
    this.#serving.catch(() => {});
  }

  /** The guest is the other side's: the other pages may go, too. */
  commit(): void {
    this.#crew.shared.commit();
  }

  /** Resolves when the other side has all of RAM. @throws VmmError "postcopy-lost" */
  async finish(main: FrameChannel): Promise<void> {
    const done = expectFrame(main, FRAME_DONE);
    // A broken connection shows in both places; the main channel may have the reason.
    const broken = this.#serving!.catch(async (error: unknown) => {
      await new Promise((resolve) => setTimeout(resolve, REASON_TIMEOUT_MS));
      throw error;
    });
    try {
      await Promise.race([done, broken]);
    } catch (cause) {
      throw new VmmError(
        "postcopy-lost",
        `Post-copy failed after the guest had moved: ${this.#leftPages()} pages of its RAM are only here, and Baton cannot ` +
          "resume such a migration. The guest stays stopped, here and there, and has to be started anew",
        { cause },
      );
    }
  }

  /** For `query-migrate`; `before` is what it told when the guest was stopped. */
  stats(before: MigrationStats): MigrationStats {
    const { normalPages, zeroPages, bytes } = this.#crew.progress();
    return {
      ...before,
      transferred: before.transferred + bytes,
      remaining: this.#leftPages() * PAGE_SIZE_BYTES,
      duplicate: before.duplicate + zeroPages,
      normal: before.normal + normalPages,
      "normal-bytes": (before.normal + normalPages) * PAGE_SIZE_BYTES,
      "precopy-bytes": before.transferred,
      "downtime-bytes": 0,
      "postcopy-requests": this.#crew.shared.requests,
      "postcopy-bytes": bytes,
    };
  }

  /** Pages that have not been sent. */
  #leftPages(): number {
    return this.#module.countDirty(this.#bitmap, this.#vm.ram.backend.sizeBytes / PAGE_SIZE_BYTES);
  }

  #bytes(bitmap: number): Uint8Array {
    const pageCount = this.#vm.ram.backend.sizeBytes / PAGE_SIZE_BYTES;
    const whole = new Uint8Array(this.#vm.memory.buffer, bitmap, DIRTY_BITMAP_SIZE_BYTES);
    return whole.slice(0, Math.ceil(pageCount / 8));
  }

  /** Ends the thread. The fds are free when this has resolved. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.#crew.close();
  }
}
