// SPDX-License-Identifier: Apache-2.0
// The one place that says which instructions objdump and llvm-mc know and the engine does not have, and of which it is not
// asked.
import { type Parsed, parse } from "../oracle/tolerance.ts";

/** By mnemonics of objdump, without prefixes. #UD is expected. */
const ABSENT = [
  // AVX and its descendants; also VERR, VERW and VMX, which are named so: see below.
  /^v(?!err|erw|m)/,
  /^k(add|and|andn|mov|not|or|ortest|shift|test|unpck|xnor|xor)/,
  // BMI, TBM, ADX, MOVBE, XOP, SSE4a, 3DNow!, MPX.
  /^(andn[lq]?$|bextr|bls|bzhi|pdep|pext[lq]?$|mulx|rorx|sarx|shlx|shrx|t1mskc|tzmsk|blc|adcx|adox|movbe|lwpins|lwpval|llwpcb|slwpcb)/,
  /^(extrq|insertq|movntss|movntsd|femms|pf|pi2f|pavgusb|pmulhrw\s|pswapd)/,
  // SHA, GFNI, key locker, CET.
  /^(sha|gf2p8|aesenc128|aesenc256|aesdec128|aesdec256|aesencwide|aesdecwide|encodekey|loadiwkey|wrss|wruss|rstorssp|saveprevssp|setssbsy|clrssbsy|incssp)/,
  // VIA's.
  /^(xcrypt|xsha|montmul|xstore)/,
  // Virtual machines, transactions, and what came later.
  /^(vm|invept|invvpid|invpcid|invlpga|skinit|stgi|clgi|xbegin|xabort|xend|xtest|tdcall|seamcall|enqcmd|movdir|uiret|clui|stui|testui|senduipi|hreset|tdp|tile|ldtilecfg|sttilecfg|tpause|umwait|umonitor|xresldtrk|xsusldtrk|pconfig|encls|enclu|enclv|getsec|pvalidate|psmash|rmpadjust|rmpupdate|tlbsync|invlpgb|mcommit|monitorx|mwaitx|clzero|rdpru|rdpkru|wrpkru|ptwrite|clwb|clflushopt|loadall|loadallnexti)/,
];

/** Neither legality nor length of these is compared, and why. */
const NOT_ASKED: readonly { why: string; mnemonics: RegExp }[] = [
  {
    why: "Features of CPUID and of control registers decide",
    mnemonics:
      /^(xsave|xrstor|xgetbv|xsetbv|rdfs|rdgs|wrfs|wrgs|rdpid|rdtscp|rdrand|rdseed|rdpmc|monitor|mwait|swapgs|sysenter|sysexit|syscall|sysret|rsm|aes|pclmul|smsw|lmsw|clac|stac)/,
  },
  {
    why: "They leave the code at hand, or end the machine",
    mnemonics: /^(int|into|icebp|hlt|iret|lret|ljmp|lcall|ud)/,
  },
  { why: "NOPs of CPUs without them", mnemonics: /^(bnd|nop|cldemote)/ },
];

/** The same by their bytes. */
const BYTES_NOT_ASKED: readonly { why: string; matches: (parsed: Parsed) => boolean }[] = [
  {
    why: "AMD's near branches obey 66, the engine's do not",
    matches: ({ opcode, has66 }) =>
      has66 && ((opcode & ~15) === 0x70 || (opcode & ~15) === 0x180 || BRANCHES.includes(opcode)),
  },
  {
    why: "Disassemblers do not know the x87's second encodings; the oracle does",
    matches: ({ opcode }) => (opcode & ~7) === 0xd8,
  },
  {
    why: "Not all control and debug registers exist, which disassemblers do not say; the oracle does",
    matches: ({ opcode }) => opcode >= 0x120 && opcode <= 0x123,
  },
  {
    why: "FWAIT is an instruction by itself, and part of the next one for objdump",
    matches: ({ opcode }) => opcode === 0x9b,
  },
  {
    why: "NOPs of CPUs without MPX, which are bad for who knows it",
    matches: ({ opcode }) => opcode === 0x11a || opcode === 0x11b,
  },
  {
    why: "Prefixes that mean nothing before MOVNTI, EMMS, BSF, BSR, WBINVD, PMOVMSKB, and group 15 with memory: ask CPUs",
    matches: ({ opcode, has66, hasF2, hasF3 }) =>
      (has66 || hasF2 || hasF3) && [0x109, 0x1c3, 0x177, 0x1ae, 0x1bc, 0x1bd, 0x1d7].includes(opcode),
  },
];
const BRANCHES = [0xc2, 0xc3, 0xe0, 0xe1, 0xe2, 0xe3, 0xe8, 0xe9, 0xeb, 0xff];

export function isNotAsked(bytes: Uint8Array): boolean {
  const parsed = parse(bytes);
  return BYTES_NOT_ASKED.some(({ matches }) => matches(parsed));
}

/** CS is not loaded by MOV, and there are six segment registers. */
function isSegmentWrong(text: string): boolean {
  return /^(rex\S* |[c-gs]s |data16 |addr32 |rep[nz]* )*mov\s.*,%(cs|\?)$/.test(text);
}

export type Expectation = "legal" | "illegal" | "not asked";

/** What the engine is expected to make of what objdump calls legal. */
export function expectationOf(text: string): Expectation {
  if (NOT_ASKED.some(({ mnemonics }) => mnemonics.test(text))) return "not asked";
  const mnemonic = text.replace(/^((lock|rep[nz]*|bnd|notrack|xacquire|xrelease|data16|addr32|rex\S*|[c-gs]s) )*/, "");
  if (NOT_ASKED.some(({ mnemonics }) => mnemonics.test(mnemonic))) return "not asked";
  if (isSegmentWrong(text) || isLockWrong(text)) return "illegal";
  return ABSENT.some((pattern) => pattern.test(mnemonic)) ? "illegal" : "legal";
}

/** LOCK before what it is not for is #UD, which disassemblers do not see. */
const LOCKABLE = /^(add|adc|and|btc|btr|bts|cmpxchg|dec|inc|neg|not|or|sbb|sub|xadd|xchg|xor)/;

function isLockWrong(text: string): boolean {
  if (!/\block\b/.test(text)) return false;
  const [, mnemonic = "", operands = ""] =
    /(\S+)\s*(.*)$/.exec(
      text.replace(/^.*\block /, "").replace(/^(rex\S* |data16 |addr32 |[c-gs]s |rep[nz]* |xacquire |xrelease )*/, ""),
    ) ?? [];
  const target = operands.split(/,(?![^(]*\))/).at(-1) ?? "";
  return !LOCKABLE.test(mnemonic) || !(target.includes("(") || /^(%[c-gs]s:)?-?0x/.test(target));
}
