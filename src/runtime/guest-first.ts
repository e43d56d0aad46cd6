// SPDX-License-Identifier: Apache-2.0
// The guest comes first: what a VMM has much to do for while its guest runs, or while it stands, is kept out of its way.
//
// Two programs that get warm, with their compiler and collector threads, keep a vCPU waiting for milliseconds, even next to a
// CPU with nothing to do. So they stay off the CPUs of the guest. And where they share a CPU with the main thread, they do
// not take it away from it: a compiler thread that is woken up would do that, for half of a millisecond.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { SysError } from "../../ffi/error.ts";
import {
  getAffinity,
  getSchedulingPolicy,
  MAX_CPUS,
  SCHED_BATCH,
  SCHED_OTHER,
  setAffinity,
  setSchedulingPolicy,
} from "../../ffi/process.ts";

const TASKS = "/proc/self/task";
/** Threads that were started in between have what their maker had: they are found by looking again. */
const PASSES = 3;

/** How threads are scheduled. */
interface Scheduling {
  affinity: Uint8Array;
  policy: number;
}

/** How threads were scheduled before the first of those that are under way, and how each of these wants it. */
let before: Scheduling | undefined;
const underWay = new Set<Scheduling>();

/** Several VMs of a process may be moved at the same time: the latest decides, as long as it lasts. */
export class GuestFirst {
  /** That the guest runs on, by number. */
  readonly cpus: readonly number[];
  /** It runs on all CPUs that this process may use. */
  readonly isEverywhere: boolean;
  readonly #before: Scheduling;
  readonly #during: Scheduling;
  /** What threads have that the calling one has started since it hurries. */
  #hurried: Scheduling | undefined;

  private constructor(cpus: readonly number[], before: Scheduling, during: Scheduling) {
    this.cpus = cpus;
    this.isEverywhere = during.affinity === before.affinity && cpus.length > 0;
    this.#before = before;
    this.#during = during;
  }

  /**
   * All threads of this process make way, but for those that are scheduled in another way than the calling one, the main
   * thread: somebody has had a reason for that.
   * @param cpus that the guest runs on; they are shared with it when there are no others
   * @param vcpuTids of the guest, if it runs here
   */
  static begin(cpus: readonly number[], vcpuTids: readonly number[] = []): GuestFirst {
    before ??= { affinity: getAffinity(0)!, policy: getSchedulingPolicy(0)! };
    const during: Scheduling = {
      affinity: without(before.affinity, cpus),
      policy: before.policy === SCHED_OTHER ? SCHED_BATCH : before.policy,
    };
    for (const from of [before, ...underWay]) moveThreads(from, during, vcpuTids);
    underWay.add(during);
    return new GuestFirst(cpus, before, during);
  }

  /**
   * What the calling thread does is urgent: the guest stands, or runs on it.
   * @param on the CPU to stay on
   * @param off the CPU to stay off, if there is another: somebody works there at the same time
   */
  hurry({ on, off }: { on?: number | undefined; off?: number | undefined } = {}): void {
    const { affinity, policy } = this.#before;
    const allowed = on === undefined ? without(affinity, off === undefined ? [] : [off]) : only(affinity, on);
    this.#hurried = { affinity: allowed, policy };
    apply(0, this.#hurried);
  }

  /** It is not any more. */
  makeWay(): void {
    apply(0, this.#during);
  }

  /** What `action` does; the threads that it has started are the guest's. */
  async startThreads(action: () => Promise<void>): Promise<void> {
    const others = threadIds();
    await action();
    moveThreads(this.#during, this.#before, others);
  }

  /** Everything is as it was, unless there is another one under way. */
  end(): void {
    if (!underWay.delete(this.#during)) return;
    const next = [...underWay].at(-1) ?? this.#before;
    apply(0, next);
    moveThreads(this.#during, next, []);
    if (this.#hurried !== undefined && !isSame(this.#hurried, this.#before)) moveThreads(this.#hurried, next, []);
    if (underWay.size === 0) before = undefined;
  }
}

/** `affinity` itself when nothing would be left of it. */
function without(affinity: Uint8Array, cpus: readonly number[]): Uint8Array {
  const others = affinity.slice();
  for (const cpu of cpus) others[cpu >> 3]! &= ~(1 << (cpu & 7));
  return others.some((byte) => byte !== 0) ? others : affinity;
}

function only(affinity: Uint8Array, cpu: number): Uint8Array {
  const one = new Uint8Array(affinity.length);
  one[cpu >> 3] = 1 << (cpu & 7);
  return one;
}

/** Gives all threads that are scheduled like `from` the scheduling `to`. */
function moveThreads(from: Scheduling, to: Scheduling, exempt: readonly number[]): void {
  for (let pass = 0; pass < PASSES; pass++) {
    let moved = 0;
    for (const tid of threadIds()) {
      if (!exempt.includes(tid) && isScheduledLike(tid, from) && apply(tid, to)) moved++;
    }
    if (moved === 0) return;
  }
}

/**
 * False when the thread has ended, or may not be scheduled so any more: somebody has taken CPUs away from this process since.
 * Then it is as it is. An update must not fail of that, least of all halfway.
 */
function apply(tid: number, { affinity, policy }: Scheduling): boolean {
  try {
    return setSchedulingPolicy(policy, tid) && setAffinity(tid, affinity);
  } catch (error) {
    if (error instanceof SysError) return false;
    throw error;
  }
}

function isScheduledLike(tid: number, wanted: Scheduling): boolean {
  const [affinity, policy] = [getAffinity(tid), getSchedulingPolicy(tid)];
  return affinity !== undefined && policy !== undefined && isSame({ affinity, policy }, wanted);
}

function isSame(one: Scheduling, other: Scheduling): boolean {
  return one.policy === other.policy && one.affinity.every((byte, index) => byte === other.affinity[index]);
}

/** Of this process. */
export function threadIds(): number[] {
  return readdirSync(TASKS).map(Number);
}

/**
 * CPUs that threads of this process run on now, or did last: field 39 of /proc/PID/task/TID/stat, proc(5). One that has
 * ended, or has yet to tell its id, runs on none.
 */
export function cpusOf(tids: readonly number[]): number[] {
  const cpus = new Set<number>();
  for (const tid of tids) {
    const path = `${TASKS}/${tid}/stat`;
    if (!existsSync(path)) continue;
    const stat = readFileSync(path, "utf8");
    // The name, field 2, may have spaces and brackets in it.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    cpus.add(Number(fields[39 - 3]));
  }
  return [...cpus];
}

export function isCpuNumber(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) < MAX_CPUS;
}
