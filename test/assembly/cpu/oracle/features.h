// SPDX-License-Identifier: Apache-2.0
// The one place that says what this CPU has and the engine has not, and what nobody should run here at all.
#include <stdbool.h>
#include <stdint.h>

/** Maps of opcodes, as in assembly/cpu/uop.ts: map << 8 | byte. */
#define MAP_0F 0x100
#define MAP_0F38 0x200
#define MAP_0F3A 0x300
#define MAP_END 0x400

/** Of 64-bit mode 64; else compatibility mode, with code of 32 or 16 bits. */
static int codeBits = 64;

static bool isLegacy(void) { return codeBits != 64; }

struct parsed {
  uint32_t opcode;
  uint8_t modrm;
  bool has66, hasF2, hasF3, hasLock, hasRexW;
  /** Place of the last F3, and of the opcode's last byte. */
  int f3At, opcodeAt;
  /** The last segment prefix, 0 for none. */
  uint8_t segment;
};

static struct parsed parse(const uint8_t *bytes, int length) {
  struct parsed p = {0};
  int at = 0;
  for (; at < length; at++) {
    uint8_t byte = bytes[at];
    if ((byte & 0xf0) == 0x40 && !isLegacy()) {
      p.hasRexW = byte & 8;
      continue;
    }
    bool isPrefix = true;
    switch (byte) {
    case 0x66: p.has66 = true; break;
    case 0xf2: p.hasF2 = true, p.hasF3 = false; break;
    case 0xf3: p.hasF3 = true, p.hasF2 = false, p.f3At = at; break;
    case 0xf0: p.hasLock = true; break;
    case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65: p.segment = byte; break;
    case 0x67: break;
    default: isPrefix = false;
    }
    if (!isPrefix) break;
    p.hasRexW = false;
  }
  if (bytes[at] == 0x0f) {
    at++;
    if (bytes[at] == 0x38) p.opcode = MAP_0F38 | bytes[++at];
    else if (bytes[at] == 0x3a) p.opcode = MAP_0F3A | bytes[++at];
    else p.opcode = MAP_0F | bytes[at];
  } else {
    p.opcode = bytes[at];
  }
  p.opcodeAt = at;
  p.modrm = bytes[at + 1];
  return p;
}

enum fate {
  RUN,
  /** Never run: it is different each time, leaves this process, or depends on the machine. */
  SKIP,
  /** The engine has no such instruction: #UD is expected without asking this CPU. */
  ABSENT,
  /** The engine, which has neither TZCNT nor LZCNT, ignores its F3. */
  WITHOUT_F3,
};

static enum fate fateOf(const struct parsed *p) {
  int group = (p->modrm >> 3) & 7;
  bool isRegister = p->modrm >= 0xc0;
  bool hasAny = p->has66 || p->hasF2 || p->hasF3;
  uint32_t op = p->opcode;
  // In 64-bit mode AMD's near branches obey 66, Intel's and the engine's do not.
  bool isBranch = (op & ~0xfu) == 0x70 || (op & ~0xfu) == (MAP_0F | 0x80) || op == 0xc2 || op == 0xc3 || op == 0xeb ||
                  op == 0xe8 || op == 0xe9 || (op >= 0xe0 && op <= 0xe3) || (op == 0xff && (group == 2 || group == 4));
  if (isBranch && p->has66 && !isLegacy()) return SKIP;
  // Zen 5 takes F3 and F2 before LOOPNE and LOOPE for another condition; for the SDM they mean nothing.
  if ((op == 0xe0 || op == 0xe1) && (p->hasF2 || p->hasF3)) return SKIP;
  if (isLegacy()) {
    switch (op) {
    // BOUND, which is EVEX with a register; LES and LDS, which load segments.
    case 0x62: return isRegister ? ABSENT : RUN;
    case 0xc4: case 0xc5: return isRegister ? ABSENT : SKIP;
    // POP of segments, far CALL and JMP: as below. INTO, which goes through the IDT without being an exception.
    case 0x07: case 0x17: case 0x1f: case 0x9a: case 0xea: case 0xce: return SKIP;
    default:;
    }
  }
  switch (op) {
  // VEX and EVEX.
  case 0x62: case 0xc4: case 0xc5: return ABSENT;
  // Segments: what they find is in the operating system's tables. INT3, INT, IRET, ICEBP.
  case 0x8e: case 0xcc: case 0xca: case 0xcb: case 0xcd: case 0xcf: case 0xf1: return SKIP;
  case 0xff: return group == 3 || group == 5 ? SKIP : RUN;
  // XOP, of which even this CPU, which has none, wants all bytes.
  case 0x8f: return group != 0 ? ABSENT : RUN;
  // Limited by CR4.UMIP, which the engine does not have.
  case MAP_0F | 0x00: return group == 2 || group == 3 ? RUN : SKIP;
  case MAP_0F | 0x01: return !isRegister && (group == 2 || group == 3 || group >= 6) ? RUN : SKIP;
  case MAP_0F | 0x02: case MAP_0F | 0x03: case MAP_0F | 0x05: case MAP_0F | 0x07: return SKIP;
  // 3DNow! is gone, but for its prefetches. Its opcode is its last byte.
  case MAP_0F | 0x0e: case MAP_0F | 0x0f: return ABSENT;
  // RDTSC, RDMSR's relatives, SYSENTER, CPUID.
  case MAP_0F | 0x31: case MAP_0F | 0x33: case MAP_0F | 0x34: case MAP_0F | 0x35: case MAP_0F | 0x37: case MAP_0F | 0xa2: return SKIP;
  case MAP_0F | 0xa1: case MAP_0F | 0xa9: case MAP_0F | 0xb2: case MAP_0F | 0xb4: case MAP_0F | 0xb5: return SKIP;
  // UD0 has no ModRM on AMD, a ModRM on Intel: both are #UD.
  case MAP_0F | 0xff: return ABSENT;
  // RSM.
  case MAP_0F | 0xaa: return SKIP;
  // With LOCK this is CR8 on AMD's.
  case MAP_0F | 0x20: case MAP_0F | 0x22: return p->hasLock ? SKIP : RUN;
  // SSE4a.
  case MAP_0F | 0x2b: return p->hasF2 || p->hasF3 ? ABSENT : RUN;
  case MAP_0F | 0x78: case MAP_0F | 0x79: return ABSENT;
  case MAP_0F | 0xbc: case MAP_0F | 0xbd: return p->hasF3 ? WITHOUT_F3 : RUN;
  // XSAVE and its relatives, FSGSBASE, CLWB, CLFLUSHOPT.
  case MAP_0F | 0xae: return group == 4 || (!isRegister && group >= 5) || hasAny ? (group == 7 && !hasAny ? RUN : SKIP) : RUN;
  // Random numbers, RDPID, XSAVES.
  case MAP_0F | 0xc7: return group == 1 && !isRegister && !p->hasF3 && !p->hasF2 ? RUN : SKIP;
  // Shadow stacks' RDSSP, a NOP without them.
  // MOVBE; CRC32 is the same with F2.
  case MAP_0F38 | 0xf0: case MAP_0F38 | 0xf1: return p->hasF2 ? RUN : ABSENT;
  // AES, but not its VAES and key locker relatives.
  case MAP_0F38 | 0xdb: case MAP_0F38 | 0xdc: case MAP_0F38 | 0xdd: case MAP_0F38 | 0xde: case MAP_0F38 | 0xdf: case MAP_0F3A | 0xdf:
    return RUN;
  default:;
  }
  // INVPCID, SHA, ADX, MOVDIRI; GFNI and SHA with immediates.
  if (op >= (MAP_0F38 | 0x80) && op < MAP_0F3A) return ABSENT;
  if (op >= (MAP_0F3A | 0xc0) && op < MAP_END) return ABSENT;
  return RUN;
}
