// SPDX-License-Identifier: Apache-2.0
// Where the self-checking payload reports: fixed guest physical addresses, plain stores, readable at any time from
// outside through the memfd that is guest RAM.
//
//   REPORT_GPA + 0x0000  header, then one cache line for each vCPU's counter
//   REPORT_GPA + 0x1000  one 4 KiB page for each vCPU
//
// Every word has one writer in the guest, so a reader never sees a lost update; `online` alone is shared (lock or).

export const REPORT_GPA = 0x18_0000;
export const REPORT_MAX_VCPUS = 8;
export const REPORT_SIZE_BYTES = 0x1000 * (1 + REPORT_MAX_VCPUS);
/** "BATONRPT", little-endian. */
export const REPORT_MAGIC = 0x5450_524e_4f54_4142n;
export const REPORT_VERSION = 1;

// Header, offsets from REPORT_GPA.
export const HEADER_MAGIC_U64 = 0x00;
export const HEADER_VERSION_U32 = 0x08;
export const HEADER_CPU_COUNT_U32 = 0x0c;
/** 1 when all vCPUs run and all RAM is touched. */
export const HEADER_READY_U32 = 0x10;
/** `PHASE_*`: how far the start has come. */
export const HEADER_PHASE_U32 = 0x14;
/** `COMMAND_*`, written from outside, obeyed by vCPU 0 between two rounds. */
export const HEADER_COMMAND_U32 = 0x18;
/** Bit for each vCPU that has reached its loop. */
export const HEADER_ONLINE_U32 = 0x1c;
/** Pages written by the first pass over RAM. */
export const HEADER_TOUCHED_PAGES_U32 = 0x20;
/** Lines `tick NNNNNNNN` printed. */
export const HEADER_LINES_U32 = 0x24;
/** Bytes received on COM1 and sent back. */
export const HEADER_ECHOED_U32 = 0x28;
/** Passes of the sweep over touched RAM that are complete. */
export const HEADER_SWEEPS_U32 = 0x2c;

/** The counter that measures the pause: u64, one cache line for each vCPU. */
export const COUNTER_OFFSET = 0x100;
export const COUNTER_STRIDE_BYTES = 64;

// Page of a vCPU, offsets from its start.
export const CPU_TICKS_U64 = 0x00;
/** Rounds of checks completed. */
export const CPU_ROUNDS_U64 = 0x08;
/** Bit `1 << ERROR_*` for each check that runs: those the CPU has no feature for do not. */
export const CPU_CHECKS_U32 = 0x10;
export const CPU_ERROR_COUNT_U32 = 0x14;
export const CPU_LAST_TSC_U64 = 0x18;
export const CPU_LAST_CLOCK_U64 = 0x20;
/** TSC cycles without a timer tick so far. */
export const CPU_STALE_TSC_U64 = 0x28;
export const CPU_TSC_PER_TICK_U64 = 0x30;
/** Longest distance of two rounds in TSC cycles; may be zeroed from outside. */
export const CPU_LONGEST_ROUND_TSC_U64 = 0x38;
/** Flags of the kvmclock page, or-ed over all reads. */
export const CPU_CLOCK_FLAGS_U32 = 0x40;
export const CPU_NMIS_U32 = 0x44;
// Working variables of the payload.
export const CPU_LAST_TICKS_U64 = 0x48;
export const CPU_TICK_LIMIT_U64 = 0x50;
export const CPU_TICK_STEP_U64 = 0x58;
export const CPU_GENERATION_U64 = 0x60;
export const CPU_SWEEP_GPA_U64 = 0x68;
export const CPU_SWEEP_GENERATION_U64 = 0x70;
export const CPU_BURSTS_U64 = 0x78;
export const CPU_LINE_TICKS_U64 = 0x80;
export const CPU_CONTROL_U64X4 = 0x88;
/** RFLAGS as found at the end of a burst. */
export const CPU_FLAGS_U64 = 0xa8;
/** What the last round has read from the probed port. */
export const CPU_PROBE_U32 = 0xb0;
/** kvmclock's page for this vCPU (struct pvclock_vcpu_time_info). */
export const CPU_PVCLOCK = 0xc0;
export const CPU_ERRORS = 0x100;
export const ERROR_STRIDE_BYTES = 64;
/** The first errors are kept: they tell most. */
export const MAX_ERRORS_KEPT = 32;
/** General registers as found at the end of a burst, in the order of their numbers. */
export const CPU_REGISTERS_U64X16 = 0x900;
/** Vector registers as found, 32 bytes each when AVX is checked, else 16. */
export const CPU_VECTORS = 0xa00;

// Error, offsets from its start.
export const ERROR_CODE_U32 = 0x00;
export const ERROR_WHERE_U64 = 0x08;
export const ERROR_EXPECTED_U64 = 0x10;
export const ERROR_FOUND_U64 = 0x18;
export const ERROR_ROUND_U64 = 0x20;
export const ERROR_COUNTER_U64 = 0x28;

export const COMMAND_NONE = 0;
export const COMMAND_SHUTDOWN = 1;

export const PHASE_BOOT = 1;
export const PHASE_TIMER = 2;
export const PHASE_VCPUS = 3;
export const PHASE_TOUCH = 4;
export const PHASE_RUN = 5;
export const PHASE_SHUTDOWN = 6;

export const ERROR_REGISTER = 1;
export const ERROR_FLAGS = 2;
export const ERROR_XMM = 3;
export const ERROR_YMM = 4;
export const ERROR_MSR = 5;
export const ERROR_TSC_AUX = 6;
export const ERROR_CONTROL = 7;
export const ERROR_DEBUG = 8;
export const ERROR_LAPIC = 9;
export const ERROR_TSC_BACKWARDS = 10;
export const ERROR_CLOCK_BACKWARDS = 11;
export const ERROR_CLOCK_JUMP = 12;
export const ERROR_CLOCK_STUCK = 13;
export const ERROR_TICKS_LOST = 14;
export const ERROR_WORKING_SET = 15;
export const ERROR_PAGE = 16;
export const ERROR_EXCEPTION = 17;
export const ERROR_VCPU_MISSING = 18;
export const ERROR_CONSOLE_STUCK = 19;

/** What `where`, `expected` and `found` of an error mean. */
const errorTexts: Record<number, { name: string; text: string }> = {
  [ERROR_REGISTER]: { name: "register", text: "general register {where} lost its value" },
  [ERROR_FLAGS]: { name: "flags", text: "RFLAGS changed" },
  [ERROR_XMM]: { name: "xmm", text: "quadword {where} of the XMM registers lost its value" },
  [ERROR_YMM]: { name: "ymm", text: "quadword {where} of the YMM registers lost its value" },
  [ERROR_MSR]: { name: "msr", text: "MSR {where} lost its value" },
  [ERROR_TSC_AUX]: { name: "tsc-aux", text: "MSR TSC_AUX lost its value" },
  [ERROR_CONTROL]: { name: "control", text: "control register {where} lost its value" },
  [ERROR_DEBUG]: { name: "debug", text: "debug register {where} lost its value" },
  [ERROR_LAPIC]: { name: "lapic", text: "local APIC register {where} lost its value" },
  [ERROR_TSC_BACKWARDS]: { name: "tsc-backwards", text: "the TSC went backwards" },
  [ERROR_CLOCK_BACKWARDS]: { name: "clock-backwards", text: "kvmclock went backwards" },
  [ERROR_CLOCK_JUMP]: { name: "clock-jump", text: "kvmclock jumped" },
  [ERROR_CLOCK_STUCK]: { name: "clock-stuck", text: "kvmclock's page stayed under update" },
  [ERROR_TICKS_LOST]: { name: "ticks-lost", text: "the local APIC timer no longer ticks" },
  [ERROR_WORKING_SET]: { name: "working-set", text: "the word at {where} is stale or lost" },
  [ERROR_PAGE]: { name: "page", text: "the page at {where} is stale or lost" },
  [ERROR_EXCEPTION]: {
    name: "exception",
    text: "exception {where} at `expected`, CR2 in `found`; the vCPU has halted",
  },
  [ERROR_VCPU_MISSING]: { name: "vcpu-missing", text: "vCPU {where} did not start" },
  [ERROR_CONSOLE_STUCK]: { name: "console-stuck", text: "COM1 did not become ready to send" },
};

export interface ReportedError {
  vcpu: number;
  code: number;
  /** Short name of the code, also the name of the check. */
  name: string;
  /** One sentence with numbers filled in. */
  text: string;
  where: bigint;
  expected: bigint;
  found: bigint;
  /** Rounds the vCPU had completed. */
  round: bigint;
  counter: bigint;
}

export interface VcpuReport {
  counter: bigint;
  online: boolean;
  ticks: bigint;
  checksRun: bigint;
  /** Names of the checks that run on this vCPU. */
  checks: string[];
  errorCount: number;
  lastTsc: bigint;
  /** kvmclock in ns; 0 when the guest has none. */
  lastClockNs: bigint;
  tscPerTick: bigint;
  longestRoundTsc: bigint;
  clockFlags: number;
  nmis: number;
  /** What the last round has read from the payload's `probePort`. */
  probe: number;
}

export interface Report {
  cpuCount: number;
  ready: boolean;
  phase: number;
  touchedPages: number;
  lines: number;
  echoedBytes: number;
  sweeps: number;
  counters: bigint[];
  ticks: bigint[];
  checksRun: bigint[];
  vcpus: VcpuReport[];
  /** Errors of all vCPUs, found so far. More than `errors.length` when some were not kept. */
  errorCount: number;
  errors: ReportedError[];
}

/** Guest physical address of a vCPU's counter. */
export function counterGpa(vcpu: number): number {
  return REPORT_GPA + COUNTER_OFFSET + vcpu * COUNTER_STRIDE_BYTES;
}

/** Guest physical address of a vCPU's page. */
export function cpuPageGpa(vcpu: number): number {
  return REPORT_GPA + 0x1000 * (1 + vcpu);
}

function describe(code: number, where: bigint): { name: string; text: string } {
  const found = errorTexts[code] ?? { name: `error-${code}`, text: `error ${code} at {where}` };
  return { name: found.name, text: found.text.replace("{where}", `0x${where.toString(16)}`) };
}

/**
 * Reads the report out of guest RAM. `ram` begins at guest physical address 0.
 *
 * Returns undefined as long as the payload has not written its magic number.
 */
export function readReport(ram: Uint8Array | DataView): Report | undefined {
  const view = new DataView(ram.buffer, ram.byteOffset, ram.byteLength);
  const u32 = (gpa: number): number => view.getUint32(gpa, true);
  const u64 = (gpa: number): bigint => view.getBigUint64(gpa, true);
  if (view.byteLength < REPORT_GPA + REPORT_SIZE_BYTES) return undefined;
  if (u64(REPORT_GPA + HEADER_MAGIC_U64) !== REPORT_MAGIC) return undefined;
  const version = u32(REPORT_GPA + HEADER_VERSION_U32);
  if (version !== REPORT_VERSION) throw new Error(`The payload reports in version ${version}, not ${REPORT_VERSION}`);

  const cpuCount = Math.min(u32(REPORT_GPA + HEADER_CPU_COUNT_U32), REPORT_MAX_VCPUS);
  const online = u32(REPORT_GPA + HEADER_ONLINE_U32);
  const vcpus: VcpuReport[] = [];
  const errors: ReportedError[] = [];
  for (let vcpu = 0; vcpu < cpuCount; vcpu++) {
    const page = cpuPageGpa(vcpu);
    const checks = u32(page + CPU_CHECKS_U32);
    const errorCount = u32(page + CPU_ERROR_COUNT_U32);
    vcpus.push({
      counter: u64(counterGpa(vcpu)),
      online: (online & (1 << vcpu)) !== 0,
      ticks: u64(page + CPU_TICKS_U64),
      checksRun: u64(page + CPU_ROUNDS_U64),
      checks: Object.entries(errorTexts).flatMap(([code, { name }]) => (checks & (1 << Number(code)) ? [name] : [])),
      errorCount,
      lastTsc: u64(page + CPU_LAST_TSC_U64),
      lastClockNs: u64(page + CPU_LAST_CLOCK_U64),
      tscPerTick: u64(page + CPU_TSC_PER_TICK_U64),
      longestRoundTsc: u64(page + CPU_LONGEST_ROUND_TSC_U64),
      clockFlags: u32(page + CPU_CLOCK_FLAGS_U32),
      nmis: u32(page + CPU_NMIS_U32),
      probe: u32(page + CPU_PROBE_U32),
    });
    for (let index = 0; index < Math.min(errorCount, MAX_ERRORS_KEPT); index++) {
      const at = page + CPU_ERRORS + index * ERROR_STRIDE_BYTES;
      const code = u32(at + ERROR_CODE_U32);
      const where = u64(at + ERROR_WHERE_U64);
      errors.push({
        vcpu,
        code,
        ...describe(code, where),
        where,
        expected: u64(at + ERROR_EXPECTED_U64),
        found: u64(at + ERROR_FOUND_U64),
        round: u64(at + ERROR_ROUND_U64),
        counter: u64(at + ERROR_COUNTER_U64),
      });
    }
  }
  return {
    cpuCount,
    ready: u32(REPORT_GPA + HEADER_READY_U32) === 1,
    phase: u32(REPORT_GPA + HEADER_PHASE_U32),
    touchedPages: u32(REPORT_GPA + HEADER_TOUCHED_PAGES_U32),
    lines: u32(REPORT_GPA + HEADER_LINES_U32),
    echoedBytes: u32(REPORT_GPA + HEADER_ECHOED_U32),
    sweeps: u32(REPORT_GPA + HEADER_SWEEPS_U32),
    counters: vcpus.map((vcpu) => vcpu.counter),
    ticks: vcpus.map((vcpu) => vcpu.ticks),
    checksRun: vcpus.map((vcpu) => vcpu.checksRun),
    vcpus,
    errorCount: vcpus.reduce((sum, vcpu) => sum + vcpu.errorCount, 0),
    errors,
  };
}
