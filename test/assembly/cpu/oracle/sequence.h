// SPDX-License-Identifier: Apache-2.0
// Random sequences of instructions: what uses the flags that the one before has made, or does not; branches to what follows.
#include "instructions.h"

#define SEQUENCE_MOST 8
/** A bit of the profile: the case is a sequence. State is made without it. */
#define PROFILE_SEQUENCE 128

struct sequence {
  uint8_t bytes[SEQUENCE_MOST * 15];
  int length, count;
  uint8_t lengths[SEQUENCE_MOST];
};

static bool isBranch(uint32_t op) { return (op & ~0xfu) == 0x70 || (op & ~0xfu) == (MAP_0F | 0x80) || op == 0xeb || op == 0xe9 || op == 0xe8; }

/** What would go anywhere, and what changes how instructions are run. */
static bool isUnfitForSequence(const struct parsed *p) {
  int group = (p->modrm >> 3) & 7;
  // Outside of 64-bit mode these leave the lower 64 KiB only for a fault.
  if (isBranch(p->opcode) && p->has66) return true;
  // Writes to the code segment: tolerance.ts.
  if (isLegacy() && p->segment == 0x2e) return true;
  switch (p->opcode) {
  // RET, LOOP, indirect branches; POPF, which may set TF.
  case 0xc2: case 0xc3: case 0xe0: case 0xe1: case 0xe2: case 0xe3: case 0x9d: return true;
  case 0xff: return group >= 2 && group <= 5;
  // MASKMOV: tolerance.ts.
  case MAP_0F | 0xf7: return true;
  // FXSAVE, of which one value is corrected only after a single instruction.
  case MAP_0F | 0xae: return group == 0;
  // Whatever users may not do ends the sequence: rarely.
  case 0x6c: case 0x6d: case 0x6e: case 0x6f: case 0xe4: case 0xe5: case 0xe6: case 0xe7: case 0xec: case 0xed: case 0xee: case 0xef:
  case 0xf4: case 0xfa: case 0xfb: case MAP_0F | 0x00: case MAP_0F | 0x01: case MAP_0F | 0x06: case MAP_0F | 0x08: case MAP_0F | 0x09:
  case MAP_0F | 0x0b: case MAP_0F | 0x20: case MAP_0F | 0x21: case MAP_0F | 0x22: case MAP_0F | 0x23: case MAP_0F | 0x30:
  case MAP_0F | 0x32: case MAP_0F | 0xb9:
    return !oneOf(32);
  default: return false;
  }
}

/** CMP and TEST, which are often before a Jcc. */
static bool isComparison(const struct parsed *p) {
  int group = (p->modrm >> 3) & 7;
  uint32_t op = p->opcode;
  return (op >= 0x38 && op <= 0x3d) || op == 0x84 || op == 0x85 || op == 0xa8 || op == 0xa9 || (op >= 0x80 && op <= 0x83 && group == 7) ||
         ((op == 0xf6 || op == 0xf7) && group == 0);
}

/** The first row of a kind, by its opcode. */
static int rowOf(uint32_t opcode) {
  int row = 0;
  while (ROWS[row].first != opcode) row++;
  return row;
}

static int pickRow(bool isAfterComparison, bool isDense) {
  if (oneOf(isAfterComparison ? 2 : 12)) return rowOf(oneOf(2) ? 0x70 : MAP_0F | 0x80);
  // SETcc, CMOVcc, ADC and SBB are interested, too.
  if (oneOf(10)) return rowOf(oneOf(2) ? MAP_0F | 0x40 : MAP_0F | 0x90);
  // INC and DEC of their own.
  if (isLegacy() && oneOf(16)) return rowOf(0x40);
  // Arithmetic and moves are in front of double shifts, all that is about integers in front of strings.
  if (isDense) return random32() % rowOf(MAP_0F | 0xa4);
  if (!oneOf(4)) return random32() % rowOf(0xa4);
  return random32() % rowCount();
}

/** Not between registers of 32 or 64 bits: what the engine has no uop of its own for, or what may raise an exception. */
static bool isRare(const struct instruction *made) {
  bool hasModrm = ROWS[made->row].looks & (M | MR | MM);
  return made->parsed.has66 || made->parsed.hasLock || (hasModrm && made->parsed.modrm < 0xc0);
}

/** A sequence for this state, or none: `length` is 0. */
static void makeSequence(struct sequence *made, const struct state *start) {
  struct state at = *start;
  int wanted = 2 + random32() % (SEQUENCE_MOST - 1);
  // Half of them are of what the engine has uops for, where it cares for flags.
  bool isAfterComparison = false, isDense = oneOf(2);
  made->length = made->count = 0;
  for (int tries = 0; tries < 100 && made->count < wanted; tries++) {
    struct instruction next;
    makeInstruction(&next, &at, pickRow(isAfterComparison, isDense));
    if (!next.hasLength || fateOf(&next.parsed) != RUN || isUnfitForSequence(&next.parsed)) continue;
    if (isDense && isRare(&next) && !oneOf(16)) continue;
    // The table says whether it has an immediate, which of F6 and F7 is only true of the groups that it names.
    bool hasImmediate = ROWS[next.row].looks & (I8 | IZ);
    if ((next.parsed.opcode & ~1u) == 0xf6 && hasImmediate != (next.parsed.modrm & 0x30 ? false : true)) continue;
    isAfterComparison = isComparison(&next.parsed);
    memcpy(made->bytes + made->length, next.bytes, next.length);
    made->length += next.length;
    made->lengths[made->count++] = next.length;
    at.rip += next.length;
  }
  // Branches go to the end, or to one that follows.
  for (int k = 0, end = 0; k < made->count; k++) {
    end += made->lengths[k];
    struct parsed p = parse(made->bytes + end - made->lengths[k], made->lengths[k]);
    if (!isBranch(p.opcode)) continue;
    int32_t distance = 0;
    for (int over = random32() % (made->count - k), m = k + 1; m <= k + over; m++) distance += made->lengths[m];
    if (p.opcode < 0x80 || p.opcode == 0xeb) made->bytes[end - 1] = distance;
    else memcpy(made->bytes + end - (codeBits == 16 ? 2 : 4), &distance, codeBits == 16 ? 2 : 4);
  }
}

static uint8_t pickSequenceProfile(void) {
  uint8_t bits = PROFILE_SEQUENCE;
  if (oneOf(3)) bits |= PROFILE_FLOAT;
  if (oneOf(3)) bits |= PROFILE_X87;
  if (oneOf(4)) bits |= PROFILE_STRING;
  if (oneOf(4)) bits |= PROFILE_EQUAL;
  if (oneOf(8)) bits |= PROFILE_DIVIDE;
  if (bits & (PROFILE_FLOAT | PROFILE_X87) && oneOf(4)) bits |= PROFILE_CONTROL;
  return bits;
}
