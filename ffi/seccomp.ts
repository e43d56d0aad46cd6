// SPDX-License-Identifier: Apache-2.0
// Filters of system calls: rules in, classic BPF out, seccomp(2). linux/seccomp.h, linux/filter.h, linux/audit.h.
//
// The program sees struct seccomp_data and nothing behind a pointer: the number of the call and its six arguments. It answers
// in the order  architecture → x32 → rules → default.
import { SysError } from "./error.ts";
import { check, lazyCall } from "./libc.ts";
import { addressOf } from "./native.ts";
import { SYS, type SyscallName } from "./unistd.ts";

const AUDIT_ARCH_X86_64 = 0xc000_003e;
/** asm/unistd.h: numbers of the x32 ABI, which is another set of calls for the same machine. */
const X32_SYSCALL_BIT = 0x4000_0000;

/** struct seccomp_data: int nr; u32 arch; u64 instruction_pointer; u64 args[6]. */
const DATA_NR = 0;
const DATA_ARCH = 4;
const DATA_ARGS = 16;

/** struct sock_filter: u16 code; u8 jt; u8 jf; u32 k. */
const INSTRUCTION_BYTES = 8;
const BPF_LD_W_ABS = 0x20;
const BPF_JEQ_K = 0x15;
const BPF_JGE_K = 0x35;
const BPF_JSET_K = 0x45;
const BPF_AND_K = 0x54;
const BPF_RET_K = 0x06;
const BPF_MAXINSNS = 4096;

const SECCOMP_RET_KILL_PROCESS = 0x8000_0000;
const SECCOMP_RET_ERRNO = 0x0005_0000;
const SECCOMP_RET_ALLOW = 0x7fff_0000;

const SECCOMP_SET_MODE_FILTER = 1;
const SECCOMP_FILTER_FLAG_TSYNC = 1;
/** linux/prctl.h */
const PR_SET_NO_NEW_PRIVS = 38;

const cPrctl = lazyCall("int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)");
const cSeccomp = lazyCall("long syscall(long number, unsigned int operation, unsigned int flags, const void *program)");

/** `errno`: the call fails with that error. `kill`: the process ends by SIGSYS. */
export type Verdict = "allow" | "kill" | { errno: number };

/** Of an argument, 0 to 5; one that is an int or unsigned int, of which only the low 32 bits count. */
export type ArgumentTest =
  | { argument: number; equals: number }
  /** All of these bits. */
  | { argument: number; hasAll: number }
  /** None of these bits. */
  | { argument: number; hasNone: number };

/** What becomes of a call: the verdict of the first rule with its name whose tests all hold. */
export interface SyscallRule {
  call: SyscallName;
  /** Absent: whatever the arguments are. */
  when?: readonly ArgumentTest[];
  verdict: Verdict;
}

interface Instruction {
  code: number;
  jt: number;
  jf: number;
  k: number;
}

const load = (offset: number): Instruction => ({ code: BPF_LD_W_ABS, jt: 0, jf: 0, k: offset });
const jump = (code: number, k: number, jt: number, jf: number): Instruction => ({ code, jt, jf, k });
const give = (verdict: Verdict): Instruction => ({ code: BPF_RET_K, jt: 0, jf: 0, k: returnValue(verdict) });

function returnValue(verdict: Verdict): number {
  if (verdict === "allow") return SECCOMP_RET_ALLOW;
  return verdict === "kill" ? SECCOMP_RET_KILL_PROCESS : SECCOMP_RET_ERRNO | verdict.errno;
}

/** A test is over with the accumulator's other content: the instructions that load it, and one that jumps over `skip` if it fails. */
function test({ argument, ...condition }: ArgumentTest, skip: number): Instruction[] {
  const low = load(DATA_ARGS + 8 * argument);
  if ("equals" in condition) return [low, jump(BPF_JEQ_K, condition.equals >>> 0, 0, skip)];
  if ("hasNone" in condition) return [low, jump(BPF_JSET_K, condition.hasNone >>> 0, skip, 0)];
  const mask = condition.hasAll >>> 0;
  return [low, { code: BPF_AND_K, jt: 0, jf: 0, k: mask }, jump(BPF_JEQ_K, mask, 0, skip)];
}

function assembleRule({ call, when = [], verdict }: SyscallRule): Instruction[] {
  let body = [give(verdict)];
  for (const each of [...when].reverse()) body = [...test(each, body.length), ...body];
  // Without tests the number is still in the accumulator.
  const isNumber = jump(BPF_JEQ_K, SYS[call], 0, body.length);
  return when.length === 0 ? [isNumber, ...body] : [load(DATA_NR), isNumber, ...body, load(DATA_NR)];
}

/** The program for these rules, in the order given; `otherwise` is for calls that none of them is about. */
export function assembleFilter(rules: readonly SyscallRule[], otherwise: Verdict): Uint8Array {
  const program = [
    load(DATA_ARCH),
    jump(BPF_JEQ_K, AUDIT_ARCH_X86_64, 1, 0),
    give("kill"),
    load(DATA_NR),
    jump(BPF_JGE_K, X32_SYSCALL_BIT, 0, 1),
    give("kill"),
    ...rules.flatMap(assembleRule),
    give(otherwise),
  ];
  if (program.length > BPF_MAXINSNS) throw new RangeError(`A filter of ${program.length} instructions is too long`);
  const bytes = new Uint8Array(program.length * INSTRUCTION_BYTES);
  const view = new DataView(bytes.buffer);
  for (const [index, { code, jt, jf, k }] of program.entries()) {
    const offset = index * INSTRUCTION_BYTES;
    view.setUint16(offset, code, true);
    view.setUint8(offset + 2, jt);
    view.setUint8(offset + 3, jf);
    view.setUint32(offset + 4, k >>> 0, true);
  }
  return bytes;
}

/** No exec of this thread and what it starts gives it more rights than it has. It cannot be undone. */
export function setNoNewPrivileges(): void {
  check("prctl", cPrctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS");
}

/**
 * Puts all threads of this process, and what they start and execute, under a filter. It cannot be undone.
 * @throws SysError EACCES without `setNoNewPrivileges`, ENOSYS or EINVAL where the kernel has no filters
 */
export function installFilter(filter: Uint8Array): void {
  // struct sock_fprog: u16 length; 6 bytes of padding; pointer.
  const program = new BigUint64Array([BigInt(filter.length / INSTRUCTION_BYTES), addressOf(filter)]);
  const result = cSeccomp(SYS.seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, program);
  if (result < 0) throw new SysError("seccomp", -result, `${filter.length / INSTRUCTION_BYTES} instructions`);
  if (result > 0) throw new Error(`Thread ${result} has a filter of its own, and cannot be put under another one`);
}
