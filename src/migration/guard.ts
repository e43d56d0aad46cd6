// SPDX-License-Identifier: Apache-2.0
// The guard of an update by cpr-exec: a process of the old program that has everything the guest is made of while the new
// program, which nobody knows yet, is to take it over.
//
//   old program   start      the guard begins, beside the running guest; from here on it says when it is awake
//                 (freeze)   monitors and consoles are frozen: from here on there is no waiting for anything to start
//                 entrust    duplicates of all fds, the command line, the time limit
//                 offer      the state is sealed: whoever takes the token may run the guest   ── exec ──
//   new program   take       right before the guest runs; it never runs without
//                 (closes)   the guard ends
//   guard         take       the new program has died, or has not taken the guest in time: it is killed, and the guard
//                            executes the old program, with the old state and the fds of before
//
// The token is the count of an eventfd: of all who read it, in whatever processes, exactly one gets it. What the guard does is in
// guard-watch.ts.
import { eventfd, signalEventfd, takeEventfd } from "../../ffi/eventfd.ts";
import { planExec } from "../../ffi/exec.ts";
import { close } from "../../ffi/fd.ts";
import { sleep } from "../../ffi/futex.ts";
import { reapChild } from "../../ffi/process.ts";
import { SCM_MAX_FD } from "../../ffi/scm.ts";
import { socketPair } from "../../ffi/socket.ts";
import { spawnProgram } from "../../ffi/spawn.ts";
import { VmmError } from "../errors.ts";
import { commandLine, environment, programBefore } from "../runtime/program.ts";
import type { Reactor } from "../runtime/reactor.ts";
import type { GuardRef } from "./carried.ts";
import { FrameChannel } from "./channel/frames.ts";
import { type Entrusted, guardTransport } from "./guard-task.ts";
import { expectFrame, FRAME_AWAKE, FRAME_ENTRUST, FRAME_FDS, FRAME_GUARDING } from "./messages.ts";
import { killAndReap } from "./reaping.ts";

/** The guard has its socket as this number, and nothing else that it would have to know. */
export const GUARD_SOCKET_FD = 3;
/** A guard starts as fast as any program, on a machine with more important things to do in seconds. The guest runs meanwhile. */
const START_TIMEOUT_MS = 60_000;
const POLL_MS = 100;
const NOTHING = new Uint8Array(0);

export interface GuardOptions {
  /** Open on the program that this process runs. */
  programFd: number;
  timeoutMs: number;
  reactor: Reactor;
}

/** The old program's. `discard` ends it, as long as this program runs. */
export class Guard {
  readonly #options: GuardOptions;
  readonly #pid: number;
  readonly #tokenFd: number;
  readonly #socketFd: number;
  readonly #channel: FrameChannel;
  #isOffered = false;

  /** @throws SysError when no process can be started */
  static start(options: GuardOptions): Guard {
    const tokenFd = eventfd();
    const [socketFd, guardsFd] = socketPair();
    try {
      const [, ...words] = programBefore(process.argv.length - 2);
      const argv = [commandLine()[0]!, ...words, "guard", String(GUARD_SOCKET_FD)];
      const plan = planExec({ fd: options.programFd }, argv, environment());
      const pid = spawnProgram(plan, [{ fd: guardsFd, asFd: GUARD_SOCKET_FD }]);
      return new Guard(options, pid, tokenFd, socketFd);
    } catch (error) {
      for (const fd of [tokenFd, socketFd]) close(fd);
      throw error;
    } finally {
      close(guardsFd);
    }
  }

  private constructor(options: GuardOptions, pid: number, tokenFd: number, socketFd: number) {
    this.#options = options;
    this.#pid = pid;
    this.#tokenFd = tokenFd;
    this.#socketFd = socketFd;
    this.#channel = new FrameChannel(guardTransport(socketFd, "the guard"), options.reactor);
  }

  /** What the new program must know of it. */
  get ref(): GuardRef {
    return { pid: this.#pid, tokenFd: this.#tokenFd, socketFd: this.#socketFd };
  }

  /** What the new program needs to have of it. */
  get fds(): number[] {
    return [this.#tokenFd, this.#socketFd];
  }

  /** Resolves when the guard can be told what to guard. @throws VmmError "guard" when it does not come so far */
  async awake(signal: AbortSignal): Promise<void> {
    await this.#converse(signal, async () => {
      await expectFrame(this.#channel, FRAME_AWAKE);
    });
  }

  /**
   * Gives the guard duplicates of `guestFds`, the numbers of which stay what they are until the update; resolves when it stands guard.
   * @throws VmmError "guard" when it does not
   */
  async entrust(guestFds: readonly number[], stateFd: number, signal: AbortSignal): Promise<void> {
    const { programFd, timeoutMs } = this.#options;
    const fds = [...guestFds, this.#tokenFd];
    const message: Entrusted = {
      pid: process.pid,
      timeoutMs,
      fds,
      stateFd,
      programFd,
      tokenFd: this.#tokenFd,
      socketFd: this.#socketFd,
      command: commandLine(),
    };
    await this.#converse(signal, async () => {
      const payload = new TextEncoder().encode(JSON.stringify(message));
      await this.#channel.send(FRAME_ENTRUST, payload, fds.slice(0, SCM_MAX_FD));
      for (let sent = SCM_MAX_FD; sent < fds.length; sent += SCM_MAX_FD) {
        await this.#channel.send(FRAME_FDS, NOTHING, fds.slice(sent, sent + SCM_MAX_FD));
      }
      await expectFrame(this.#channel, FRAME_GUARDING);
    });
  }

  async #converse(signal: AbortSignal, conversation: () => Promise<void>): Promise<void> {
    const giveUp = (): void => this.#channel.interrupt(new VmmError("cancelled", "The migration was cancelled"));
    const late = new VmmError("guard", `The guard was not ready within ${START_TIMEOUT_MS / 1000} s`);
    const timer = setTimeout(() => this.#channel.interrupt(late), START_TIMEOUT_MS);
    signal.addEventListener("abort", giveUp, { once: true });
    try {
      await conversation();
    } catch (cause) {
      signal.throwIfAborted();
      throw new VmmError("guard", "No guard could be set up for the update, so it was not begun", { cause });
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", giveUp);
    }
  }

  /** Within the pause, when the state is sealed: from now on only who takes the token may run the guest. */
  offer(): void {
    this.#isOffered = true;
    signalEventfd(this.#tokenFd);
  }

  /**
   * The exec has failed, and the guest is to run on here. A guard that has taken it kills this process, so that this does not
   * return; one that has died since never will.
   */
  standDown(): void {
    if (!this.#isOffered) return;
    this.#isOffered = false;
    while (takeEventfd(this.#tokenFd) === 0n && !reapChild(this.#pid)) sleep(POLL_MS);
  }

  /** Only when the guest is here: the guard is killed, so that nobody ever waits for it. */
  discard(): void {
    this.#channel.close();
    close(this.#tokenFd);
    killAndReap(this.#pid);
  }
}
