// SPDX-License-Identifier: Apache-2.0
// Post-copy, the new side: the guest runs here before all of its RAM is here. Who touches a page that is not waits until it
// has come; ram/page-fetcher.ts gets it.
//
// Until the commit everything may fail, as in any migration. After it the guest is in two places at once, and the failure of
// either, or of the connection, is its end.
import { DIRTY_BITMAP_SIZE_BYTES, PAGE_SIZE_BYTES } from "../../assembly/layout.ts";
import { close, setNonBlocking } from "../../ffi/fd.ts";
import { IoMemory } from "../../ffi/iov.ts";
import { advise } from "../../ffi/mmap.ts";
import { FaultableMemory, openUserfaultfd } from "../../ffi/userfaultfd/userfaultfd.ts";
import { describeError, VmmError } from "../errors.ts";
import type { Vm } from "../machine/vm.ts";
import type { FrameChannel } from "./channel/frames.ts";
import { FRAME_DONE } from "./messages.ts";
import { ROUND_BITMAP } from "./precopy.ts";
import { RamCrew, type RoundStats } from "./ram/crew.ts";
import { type DirtyModule, loadDirtyModule } from "./ram/dirty-module.ts";

/** One for requests and what they bring, one for all other pages. */
export const POSTCOPY_CONNECTIONS = 2;
/** The pages that are not here. Nothing else is migrated meanwhile. */
const MISSING_BITMAP = ROUND_BITMAP;
const NOTHING = new Uint8Array(0);

export class PostcopyDestination implements AsyncDisposable {
  readonly #vm: Vm;
  readonly #written: number;
  readonly #faultFd: number;
  readonly #ram: FaultableMemory;
  readonly #module: DirtyModule;
  #crew: RamCrew | undefined;
  #fetching: Promise<RoundStats> | undefined;
  /** The userfaultfd is needed: closing it would let the guest run on with pages of zeros. */
  #isGuestHeld = false;

  private constructor(vm: Vm, written: number, faultFd: number) {
    const { memory, ram } = vm;
    this.#vm = vm;
    this.#written = written;
    this.#faultFd = faultFd;
    const bytes = new Uint8Array(memory.buffer, ram.base, ram.backend.sizeBytes);
    this.#ram = new FaultableMemory(faultFd, new IoMemory(bytes));
    this.#module = loadDirtyModule(memory);
  }

  /**
   * Finds out whether post-copy is possible here, while the guest still runs over there, and empties RAM.
   * @param written bitmap in which a RamReceiver notes what it writes
   * @throws VmmError "postcopy-unavailable" saying why, and what to do
   */
  static prepare(vm: Vm, written: number): PostcopyDestination {
    const { backend, isShared, fd } = vm.ram;
    if (fd !== undefined && !isShared) {
      throw unavailable(`RAM back end '${backend.id}' is a private mapping of a file: set share=on`);
    }
    let faultFd: number;
    try {
      faultFd = openUserfaultfd();
    } catch (cause) {
      throw unavailable(
        "userfaultfd(2) cannot be used: run with CAP_SYS_PTRACE, allow /dev/userfaultfd, or set vm.unprivileged_userfaultfd=1",
        cause,
      );
    }
    const destination = new PostcopyDestination(vm, written, faultFd);
    try {
      destination.#prepareRam();
    } catch (cause) {
      close(faultFd);
      throw unavailable(
        `RAM back end '${backend.id}' (${backend.qomType}) cannot be filled page by page: use a memfd without huge pages`,
        cause,
      );
    }
    return destination;
  }

  #prepareRam(): void {
    this.#ram.register();
    this.#ram.unregister();
    const { memory, ram } = this.#vm;
    const bytes = new Uint8Array(memory.buffer);
    // A page of a huge page may be emptied and still be there: nobody would wait for it.
    advise(bytes, ram.base, ram.backend.sizeBytes, "no-huge");
    this.#dropPages(0, ram.backend.sizeBytes / PAGE_SIZE_BYTES);
  }

  /** Starts the thread that will get the pages. The fds stay the caller's. */
  connect(urgentFd: number, backgroundFd: number): void {
    for (const fd of [urgentFd, backgroundFd]) setNonBlocking(fd, true);
    const { memory, ram } = this.#vm;
    this.#crew = new RamCrew({ memory, ramBase: ram.base, ramSizeBytes: ram.backend.sizeBytes }, [backgroundFd], {
      kind: "fetch-pages",
      urgentFd,
      faultFd: this.#faultFd,
    });
  }

  /**
   * Drops pages that came and have been written over there since: they must not be here when the guest is.
   * @param missing bitmap of the pages that are to come in post-copy. @throws VmmError "stream"
   */
  drop(missing: Uint8Array): void {
    const { memory, ram } = this.#vm;
    const pageCount = ram.backend.sizeBytes / PAGE_SIZE_BYTES;
    const sizeBytes = Math.ceil(pageCount / 8);
    if (missing.length !== sizeBytes) {
      throw new VmmError(
        "stream",
        `The bitmap of the missing pages has ${missing.length} bytes instead of ${sizeBytes}`,
      );
    }
    const bitmap = new Uint8Array(memory.buffer, MISSING_BITMAP, DIRTY_BITMAP_SIZE_BYTES);
    bitmap.fill(0);
    bitmap.set(missing);
    const { nextDirtyPage, nextCleanPage, clearRange } = this.#module;
    for (let page = nextDirtyPage(MISSING_BITMAP, pageCount, 0); page < pageCount; ) {
      const end = nextCleanPage(MISSING_BITMAP, pageCount, page);
      for (let stale = nextDirtyPage(this.#written, end, page); stale < end; ) {
        const staleEnd = nextCleanPage(this.#written, end, stale);
        this.#dropPages(stale, staleEnd - stale);
        clearRange(this.#written, stale, staleEnd - stale);
        stale = nextDirtyPage(this.#written, end, staleEnd);
      }
      page = nextDirtyPage(MISSING_BITMAP, pageCount, end);
    }
  }

  #dropPages(firstPage: number, pageCount: number): void {
    const { memory, ram } = this.#vm;
    const offset = ram.base + firstPage * PAGE_SIZE_BYTES;
    const advice = ram.isShared ? "drop-shared" : "drop-private";
    advise(new Uint8Array(memory.buffer), offset, pageCount * PAGE_SIZE_BYTES, advice);
  }

  /** From now on a missing page is waited for, and got: restoring state may need one. */
  begin(): void {
    this.#ram.register();
    this.#fetching = this.#crew!.run({ bitmap: MISSING_BITMAP });
    // Whoever calls `finish` hears of it.
    this.#fetching.catch(() => {});
  }

  /** The guest is this side's. @throws VmmError when its RAM cannot come any more */
  commit(): void {
    if (!this.#crew!.shared.commit()) throw lost(this.#crew!.shared.errorOf(0));
    this.#isGuestHeld = true;
  }

  /** Resolves when all of RAM is here, and tells the other side. @throws VmmError "postcopy-lost" */
  async finish(main: FrameChannel): Promise<void> {
    try {
      await this.#fetching;
    } catch (error) {
      throw this.#lose(error);
    }
    this.#isGuestHeld = false;
    try {
      await main.send(FRAME_DONE, NOTHING);
    } catch (error) {
      process.stderr.write(
        `baton: all of the guest is here, but the other side was not told: ${describeError(error)}\n`,
      );
    }
  }

  /** Stops the guest, unless it has ended by itself and needs nothing any more. */
  #lose(cause: unknown): VmmError {
    const error = lost(cause);
    if (this.#vm.state !== "shutdown") this.#vm.lose(describeError(error));
    // No vCPU executes anything any more. One that waits for a page inside of KVM, where no signal gets it out, has to go on to
    // be able to stop.
    this.#ram.unregister();
    this.#isGuestHeld = false;
    return error;
  }

  /** Ends what is under way: for a VM that is being closed. */
  cancel(): void {
    this.#crew?.cancel();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#crew?.close();
    if (!this.#isGuestHeld) close(this.#faultFd);
  }
}

function unavailable(reason: string, cause?: unknown): VmmError {
  return new VmmError("postcopy-unavailable", `Post-copy is not possible here: ${reason}`, { cause });
}

function lost(cause: unknown): VmmError {
  return new VmmError(
    "postcopy-lost",
    "Post-copy failed after the guest had moved: part of its RAM is only on the other side, and Baton cannot resume such a " +
      "migration. The guest is stopped here, cannot run anywhere any more, and has to be started anew",
    { cause },
  );
}
