// SPDX-License-Identifier: Apache-2.0
// Random instructions: a table of all there are, and operands that mostly hit what the registers point to.
#include "features.h"
#include "state.h"

// What a row's instructions look like.
/** Has a ModRM; of it, mod is 3, or is not. */
#define M 1
#define MR 2
#define MM 4
#define I8 8
/** As wide as the operand, but no wider than 32 bits; of any width; two bytes; an address. */
#define IZ 16
#define IV 32
#define I16 64
#define MOFFS 128
/** 66 and REX.W choose its size. */
#define V 256
/** Without 66, F3 and F2; or with one of them: any of those named is chosen. */
#define NP 512
#define P66 1024
#define PF3 2048
#define PF2 4096
/** LOCK is good with memory. */
#define L 8192
/** F3 or F2 repeats it. */
#define REP 16384
/** The register is the second operand's bit number, or memory a bit string. */
#define BITS 32768
/** Operands in memory are aligned, most of the time. */
#define A16 65536
/** Only outside of 64-bit mode. */
#define LEGACY 131072

struct row {
  uint16_t first, last;
  uint32_t looks;
  uint8_t profile;
  /** Bits of the values of ModRM.reg, 0 for any. */
  uint8_t groups;
};

#define F PROFILE_FLOAT
#define S0F(first, last, looks, profile) {MAP_0F | first, MAP_0F | last, M | A16 | looks, profile, 0}
#define S38(first, last, looks) {MAP_0F38 | first, MAP_0F38 | last, M | A16 | looks, 0, 0}
#define S3A(first, last, looks, profile) {MAP_0F3A | first, MAP_0F3A | last, M | A16 | I8 | looks, profile, 0}
#define ALL4 (NP | P66 | PF3 | PF2)

static const struct row ROWS[] = {
    // Integer arithmetic.
#define ALU(base, lock)                                                                                                   \
  {base, base + 1, M | V | lock, 0, 0}, {base + 2, base + 3, M | V, 0, 0}, {base + 4, base + 4, I8, 0, 0}, {                 \
    base + 5, base + 5, V | IZ, 0, 0                                                                                      \
  }
    ALU(0x00, L), ALU(0x08, L), ALU(0x10, L), ALU(0x18, L), ALU(0x20, L), ALU(0x28, L), ALU(0x30, L), ALU(0x38, 0),
    {0x80, 0x80, M | I8 | L, 0, 0x7f}, {0x80, 0x80, M | I8, 0, 0x80},
    {0x81, 0x81, M | V | IZ | L, 0, 0x7f}, {0x81, 0x81, M | V | IZ, 0, 0x80},
    {0x83, 0x83, M | V | I8 | L, 0, 0x7f}, {0x83, 0x83, M | V | I8, 0, 0x80},
    {0xfe, 0xfe, M | L, 0, 3}, {0xff, 0xff, M | V | L, 0, 3},
    {0xf6, 0xf6, M | I8, 0, 3}, {0xf7, 0xf7, M | V | IZ, 0, 3},
    {0xf6, 0xf6, M | L, 0, 0x0c}, {0xf7, 0xf7, M | V | L, 0, 0x0c},
    {0xf6, 0xf6, M, 0, 0x30}, {0xf7, 0xf7, M | V, 0, 0x30},
    {0xf6, 0xf6, M, PROFILE_DIVIDE, 0xc0}, {0xf7, 0xf7, M | V, PROFILE_DIVIDE, 0xc0}, {0xf7, 0xf7, M | V, PROFILE_DIVIDE, 0xc0},
    {0x69, 0x69, M | V | IZ, 0, 0}, {0x6b, 0x6b, M | V | I8, 0, 0}, {MAP_0F | 0xaf, MAP_0F | 0xaf, M | V, 0, 0},
    {0x84, 0x85, M | V, 0, 0}, {0xa8, 0xa8, I8, 0, 0}, {0xa9, 0xa9, V | IZ, 0, 0},
    {0x98, 0x99, V, 0, 0}, {0x9e, 0x9f, 0, 0, 0}, {0xf5, 0xf5, 0, 0, 0}, {0xf8, 0xf9, 0, 0, 0}, {0xfc, 0xfd, 0, 0, 0},
    // Moves.
    {0x88, 0x8b, M | V, 0, 0}, {0x8d, 0x8d, M | V, 0, 0}, {0x63, 0x63, M | V, 0, 0}, {0x8c, 0x8c, M | V, 0, 0x3f},
    {0xb0, 0xb7, I8, 0, 0}, {0xb8, 0xbf, V | IV, 0, 0}, {0xc6, 0xc6, M | I8, 0, 1}, {0xc7, 0xc7, M | V | IZ, 0, 1},
    {0xa0, 0xa3, V | MOFFS, 0, 0}, {0x86, 0x87, M | V | L, 0, 0}, {0x90, 0x97, V, 0, 0}, {0xd7, 0xd7, 0, 0, 0},
    {MAP_0F | 0x40, MAP_0F | 0x4f, M | V, 0, 0}, {MAP_0F | 0x90, MAP_0F | 0x9f, M, 0, 0},
    {MAP_0F | 0xb6, MAP_0F | 0xb7, M | V, 0, 0}, {MAP_0F | 0xbe, MAP_0F | 0xbf, M | V, 0, 0},
    {MAP_0F | 0xc8, MAP_0F | 0xcf, V, 0, 0}, {MAP_0F | 0xc3, MAP_0F | 0xc3, M | NP, 0, 0},
    // Shifts, rotations.
    {0xc0, 0xc0, M | I8, 0, 0}, {0xc1, 0xc1, M | V | I8, 0, 0}, {0xd0, 0xd0, M, 0, 0}, {0xd1, 0xd1, M | V, 0, 0},
    {0xd2, 0xd2, M, 0, 0}, {0xd3, 0xd3, M | V, 0, 0}, {0xc1, 0xc1, M | V | I8, 0, 0}, {0xd3, 0xd3, M | V, 0, 0},
    {MAP_0F | 0xa4, MAP_0F | 0xa4, M | V | I8, 0, 0}, {MAP_0F | 0xac, MAP_0F | 0xac, M | V | I8, 0, 0},
    {MAP_0F | 0xa5, MAP_0F | 0xa5, M | V, 0, 0}, {MAP_0F | 0xad, MAP_0F | 0xad, M | V, 0, 0},
    // Bits.
    {MAP_0F | 0xa3, MAP_0F | 0xa3, M | V | BITS, 0, 0}, {MAP_0F | 0xab, MAP_0F | 0xab, M | V | L | BITS, 0, 0},
    {MAP_0F | 0xb3, MAP_0F | 0xb3, M | V | L | BITS, 0, 0}, {MAP_0F | 0xbb, MAP_0F | 0xbb, M | V | L | BITS, 0, 0},
    {MAP_0F | 0xba, MAP_0F | 0xba, M | V | I8, 0, 0x10}, {MAP_0F | 0xba, MAP_0F | 0xba, M | V | I8 | L, 0, 0xe0},
    {MAP_0F | 0xbc, MAP_0F | 0xbd, M | V | NP | PF3, 0, 0}, {MAP_0F | 0xb8, MAP_0F | 0xb8, M | V | PF3, 0, 0},
    // Compare and exchange.
    {MAP_0F | 0xb0, MAP_0F | 0xb1, M | V | L, PROFILE_EQUAL, 0}, {MAP_0F | 0xc0, MAP_0F | 0xc1, M | V | L, 0, 0},
    {MAP_0F | 0xc7, MAP_0F | 0xc7, M | L | V | A16, PROFILE_EQUAL, 2}, {MAP_0F | 0xc7, MAP_0F | 0xc7, M | L | V | A16, PROFILE_EQUAL, 2},
    // Stack.
    {0x50, 0x5f, V, 0, 0}, {0x68, 0x68, V | IZ, 0, 0}, {0x6a, 0x6a, V | I8, 0, 0}, {0x8f, 0x8f, M | V, 0, 1},
    {0xff, 0xff, M | V, 0, 0x40}, {0x9c, 0x9d, V, 0, 0}, {0xc8, 0xc8, V | I16 | I8, 0, 0}, {0xc9, 0xc9, V, 0, 0},
    {MAP_0F | 0xa0, MAP_0F | 0xa0, V, 0, 0}, {MAP_0F | 0xa8, MAP_0F | 0xa8, V, 0, 0},
    // Branches.
    {0x70, 0x7f, I8, 0, 0}, {MAP_0F | 0x80, MAP_0F | 0x8f, IZ, 0, 0}, {0xe0, 0xe3, I8, 0, 0}, {0xe0, 0xe3, I8, PROFILE_STRING, 0},
    {0xe8, 0xe9, IZ, 0, 0}, {0xeb, 0xeb, I8, 0, 0}, {0xc2, 0xc2, I16, 0, 0}, {0xc3, 0xc3, 0, 0, 0}, {0xff, 0xff, M, 0, 0x14},
    // Strings.
    {0xa4, 0xa5, V | REP, PROFILE_STRING, 0}, {0xa6, 0xa7, V | REP, PROFILE_STRING, 0}, {0xaa, 0xaf, V | REP, PROFILE_STRING, 0},
    {0xa4, 0xa5, V | REP, PROFILE_STRING, 0}, {0xa6, 0xa7, V | REP, PROFILE_STRING, 0}, {0xaa, 0xaf, V | REP, PROFILE_STRING, 0},
    // What does nothing, and what users may not do.
    {MAP_0F | 0x0d, MAP_0F | 0x0d, M, 0, 3}, {MAP_0F | 0x18, MAP_0F | 0x1f, M | V, 0, 0}, {MAP_0F | 0x1e, MAP_0F | 0x1e, M | PF3, 0, 0},
    {MAP_0F | 0xae, MAP_0F | 0xae, MR | NP, 0, 0xe0}, {MAP_0F | 0xae, MAP_0F | 0xae, MM | NP, 0, 0x80}, {0x9b, 0x9b, 0, PROFILE_X87, 0},
    {0x6c, 0x6f, V | REP, PROFILE_STRING, 0}, {0xe4, 0xe7, I8, 0, 0}, {0xec, 0xef, 0, 0, 0}, {0xf4, 0xf4, 0, 0, 0}, {0xfa, 0xfb, 0, 0, 0},
    {MAP_0F | 0x06, MAP_0F | 0x06, 0, 0, 0}, {MAP_0F | 0x08, MAP_0F | 0x09, 0, 0, 0}, {MAP_0F | 0x0b, MAP_0F | 0x0b, 0, 0, 0},
    {MAP_0F | 0x20, MAP_0F | 0x23, M, 0, 0}, {MAP_0F | 0x30, MAP_0F | 0x30, 0, 0, 0}, {MAP_0F | 0x32, MAP_0F | 0x32, 0, 0, 0},
    {MAP_0F | 0x00, MAP_0F | 0x00, M, 0, 0x0c}, {MAP_0F | 0x01, MAP_0F | 0x01, MM, 0, 0xcc}, {MAP_0F | 0xb9, MAP_0F | 0xb9, M, 0, 0},
    // SSE to SSE2, and MMX.
    S0F(0x10, 0x11, ALL4, F), S0F(0x12, 0x12, ALL4, 0), S0F(0x13, 0x13, NP | P66, 0), S0F(0x14, 0x15, NP | P66, 0),
    S0F(0x16, 0x16, NP | P66 | PF3, 0), S0F(0x17, 0x17, NP | P66, 0), S0F(0x28, 0x29, NP | P66, 0), S0F(0x2a, 0x2a, ALL4 | V, F),
    S0F(0x2b, 0x2b, NP | P66, 0), S0F(0x2c, 0x2d, ALL4 | V, F), S0F(0x2e, 0x2f, NP | P66, F),
    {MAP_0F | 0x50, MAP_0F | 0x50, MR | NP | P66 | V, F, 0}, S0F(0x51, 0x51, ALL4, F), S0F(0x52, 0x53, NP | PF3, F), S0F(0x54, 0x57, NP | P66, F),
    S0F(0x58, 0x5a, ALL4, F), S0F(0x5b, 0x5b, NP | P66 | PF3, F), S0F(0x5c, 0x5f, ALL4, F), S0F(0x60, 0x6b, NP | P66, 0),
    S0F(0x6c, 0x6d, P66, 0), S0F(0x6e, 0x6e, NP | P66 | V, 0), S0F(0x6f, 0x6f, NP | P66 | PF3, 0), S0F(0x70, 0x70, ALL4 | I8, 0),
    {MAP_0F | 0x71, MAP_0F | 0x72, MR | NP | P66 | I8, 0, 0x54}, {MAP_0F | 0x73, MAP_0F | 0x73, MR | NP | P66 | I8, 0, 0x44},
    {MAP_0F | 0x73, MAP_0F | 0x73, MR | P66 | I8, 0, 0x88}, S0F(0x74, 0x76, NP | P66, 0), {MAP_0F | 0x77, MAP_0F | 0x77, NP, PROFILE_X87, 0},
    S0F(0x7c, 0x7d, P66 | PF2, F), S0F(0x7e, 0x7e, NP | P66 | PF3 | V, 0), S0F(0x7f, 0x7f, NP | P66 | PF3, 0), S0F(0xc2, 0xc2, ALL4 | I8, F),
    {MAP_0F | 0xc4, MAP_0F | 0xc4, M | NP | P66 | I8 | V, 0, 0}, {MAP_0F | 0xc5, MAP_0F | 0xc5, MR | NP | P66 | I8 | V, 0, 0}, S0F(0xc6, 0xc6, NP | P66 | I8, 0),
    S0F(0xd0, 0xd0, P66 | PF2, F), S0F(0xd1, 0xd5, NP | P66, 0), S0F(0xd6, 0xd6, P66 | PF3 | PF2, 0), {MAP_0F | 0xd7, MAP_0F | 0xd7, MR | NP | P66, 0, 0},
    S0F(0xd8, 0xe5, NP | P66, 0), S0F(0xe6, 0xe6, P66 | PF3 | PF2, F), S0F(0xe7, 0xe7, NP | P66, 0), S0F(0xe8, 0xef, NP | P66, 0),
    S0F(0xf0, 0xf0, PF2, 0), S0F(0xf1, 0xf6, NP | P66, 0), {MAP_0F | 0xf7, MAP_0F | 0xf7, MR | NP | P66, PROFILE_STRING, 0}, S0F(0xf8, 0xfe, NP | P66, 0),
    {MAP_0F | 0xae, MAP_0F | 0xae, MM | NP, 0, 0x0c}, {MAP_0F | 0xae, MAP_0F | 0xae, MM | NP | V | A16, PROFILE_X87, 0x03},
    // SSSE3 to SSE4.2.
    S38(0x00, 0x0b, NP | P66), S38(0x10, 0x10, P66), S38(0x14, 0x15, P66), S38(0x17, 0x17, P66), S38(0x1c, 0x1e, NP | P66), S38(0x20, 0x25, P66),
    S38(0x28, 0x2b, P66), S38(0x30, 0x35, P66), S38(0x37, 0x41, P66), S38(0xdb, 0xdf, P66), {MAP_0F38 | 0xf0, MAP_0F38 | 0xf1, M | V | PF2, 0, 0},
    S3A(0x08, 0x0b, P66, F), S3A(0x0c, 0x0e, P66, 0), S3A(0x0f, 0x0f, NP | P66, 0), S3A(0x14, 0x17, P66 | V, 0), S3A(0x20, 0x20, P66, 0),
    S3A(0x21, 0x21, P66, F), S3A(0x22, 0x22, P66 | V, 0), S3A(0x40, 0x41, P66, F), S3A(0x42, 0x42, P66, 0), S3A(0x44, 0x44, P66, 0), S3A(0x60, 0x63, P66 | V, 0), S3A(0xdf, 0xdf, P66, 0),
    // x87.
    {0xd8, 0xd8, M, PROFILE_X87, 0}, {0xd9, 0xd9, M, PROFILE_X87, 0}, {0xda, 0xdb, M, PROFILE_X87, 0}, {0xdc, 0xdd, M, PROFILE_X87, 0},
    {0xde, 0xdf, M, PROFILE_X87, 0}, {0xd8, 0xdf, MR, PROFILE_X87, 0}, {0xd9, 0xd9, MR, PROFILE_X87, 0}, {0xd9, 0xd9, MR, PROFILE_X87, 0},
    // What 64-bit mode has no more: they are the last ones.
    {0x40, 0x4f, LEGACY | V, 0, 0},
    {0x06, 0x06, LEGACY | V, 0, 0}, {0x0e, 0x0e, LEGACY | V, 0, 0}, {0x16, 0x16, LEGACY | V, 0, 0}, {0x1e, 0x1e, LEGACY | V, 0, 0},
    {0x27, 0x27, LEGACY, 0, 0}, {0x2f, 0x2f, LEGACY, 0, 0}, {0x37, 0x37, LEGACY, 0, 0}, {0x3f, 0x3f, LEGACY, 0, 0},
    {0xd4, 0xd5, LEGACY | I8, 0, 0}, {0xd6, 0xd6, LEGACY, 0, 0}, {0x60, 0x61, LEGACY | V, 0, 0}, {0x62, 0x62, LEGACY | MM | V, PROFILE_EQUAL, 0},
    {0x82, 0x82, LEGACY | M | I8 | L, 0, 0x7f}, {0x82, 0x82, LEGACY | M | I8, 0, 0x80},
};
#define ROW_COUNT (int)(sizeof ROWS / sizeof *ROWS)

/** Of the rows, those that the mode has. */
static int rowCount(void) {
  int count = ROW_COUNT;
  while (!isLegacy() && ROWS[count - 1].looks & LEGACY) count--;
  return count;
}

static uint64_t randomState;

static uint32_t random32(void) {
  randomState ^= randomState << 13;
  randomState ^= randomState >> 7;
  randomState ^= randomState << 17;
  return (uint32_t)((randomState * 0x2545f4914f6cdd1dull) >> 32);
}

static bool oneOf(uint32_t count) { return random32() % count == 0; }

struct instruction {
  uint8_t bytes[32];
  int length;
  /** Whether `length` is the instruction's, or only enough for it. */
  bool hasLength;
  /** Row, or ROW_COUNT for random opcodes. */
  int row;
  struct parsed parsed;
};

/** What addresses are made of: outside of 64-bit mode only the lower half of a register. */
static uint64_t valueOf(const struct state *s, int n) { return isLegacy() ? (uint32_t)s->gpr[n] : s->gpr[n]; }

static bool isPointer(uint64_t value) { return value >= DATA - 64 && value < DATA + DATA_SIZE + 64; }

static int pickRegister(const struct state *s, bool wantsPointer) {
  int n = 0;
  for (int tries = 0; tries < 6; tries++) {
    n = random32() & (isLegacy() ? 7 : 15);
    if (wantsPointer ? isPointer(valueOf(s, n)) : valueOf(s, n) < 0x1000) break;
  }
  return n;
}

/** ModRM with an address of 16 bits. It gets everywhere in its segment. */
static int putMemory16(uint8_t *bytes, int at, const struct state *s, int reg, uint32_t want, uint64_t segmentBase) {
  // SDM volume 2, table 2-1: BX + SI, BX + DI, BP + SI, BP + DI, SI, DI, BP, BX.
  static const int8_t BASES[] = {3, 3, 5, 5, 6, 7, 5, 3}, INDEXES[] = {6, 7, 6, 7, -1, -1, -1, -1};
  int rm = random32() & 7;
  bool isDirect = oneOf(8);
  uint32_t from = isDirect ? 0 : s->gpr[BASES[rm]] + (INDEXES[rm] < 0 ? 0 : s->gpr[INDEXES[rm]]);
  int16_t displacement = want - segmentBase - from;
  if (oneOf(10)) displacement = random32();
  int mod = displacement == 0 && rm != 6 ? 0 : displacement == (int8_t)displacement ? 1 : 2;
  if (isDirect) rm = 6, mod = 0;
  bytes[at++] = mod << 6 | reg << 3 | rm;
  int size = isDirect ? 2 : mod;
  memcpy(bytes + at, &displacement, size);
  return at + size;
}

/** ModRM with memory, SIB and displacement after `at`; the instruction goes on for `more` bytes behind. */
static int putMemory(uint8_t *bytes, int at, const struct state *s, uint8_t *rex, int reg, uint64_t segmentBase, bool isShort, bool isAligned, int more) {
  uint32_t want = s->chunk[random32() & 3] + (oneOf(4) ? random32() & 15 : 0);
  if (isAligned && !oneOf(4)) want &= ~15u;
  if (isShort) return putMemory16(bytes, at, s, reg < 0 ? (int)(random32() & 7) : reg, want, segmentBase);
  bool isAimed = !oneOf(10);
  int base = pickRegister(s, true), index = pickRegister(s, false), scale = random32() & 3;
  bool hasBase = !oneOf(8), hasIndex = oneOf(3) && index != 4;
  bool isRipRelative = !hasBase && !hasIndex && oneOf(2);
  int64_t from = segmentBase + (hasBase ? valueOf(s, base) : 0) + (hasIndex ? valueOf(s, index) << scale : 0);
  int64_t displacement = (int64_t)want - from;
  if (isLegacy()) displacement = (int32_t)displacement;
  else if (isRipRelative) displacement = (int64_t)want - (int64_t)(segmentBase + s->rip + at + 5 + more);
  if (!isAimed || displacement != (int32_t)displacement) displacement = oneOf(2) ? (int8_t)random32() : oneOf(4) ? (int32_t)random32() : 0;
  // Without a displacement when possible, most of the time.
  int mod = displacement == 0 && (base & 7) != 5 && !oneOf(8) ? 0 : displacement == (int8_t)displacement && !oneOf(8) ? 1 : 2;
  *rex &= 0xc;
  if (reg < 0) reg = random32() & 7;
  if (isRipRelative) {
    // Outside of 64-bit mode this is only a displacement.
    bytes[at++] = (reg << 3) | 5;
    mod = 2;
  } else if (!hasBase) {
    bytes[at++] = (reg << 3) | 4;
    bytes[at++] = (scale << 6) | ((hasIndex ? index & 7 : 4) << 3) | 5;
    if (hasIndex) *rex |= (index >> 3) << 1;
    mod = 2;
  } else if (hasIndex || (base & 7) == 4 || oneOf(16)) {
    bytes[at++] = (mod << 6) | (reg << 3) | 4;
    bytes[at++] = (scale << 6) | ((hasIndex ? index & 7 : 4) << 3) | (base & 7);
    *rex |= (hasIndex ? (index >> 3) << 1 : 0) | (base >> 3);
  } else {
    bytes[at++] = (mod << 6) | (reg << 3) | (base & 7);
    *rex |= base >> 3;
  }
  if (mod == 1) bytes[at++] = (uint8_t)displacement;
  if (mod == 2) {
    int32_t value = (int32_t)displacement;
    memcpy(bytes + at, &value, 4);
    at += 4;
  }
  return at;
}

static uint8_t pickGroup(uint8_t groups) {
  for (;;) {
    uint8_t group = random32() & 7;
    if (groups == 0 || groups >> group & 1) return group;
  }
}

/** Prefixes that are asked for, and now and then others. */
static int putPrefixes(uint8_t *bytes, uint32_t looks, uint64_t *segmentBase, bool *has67, bool *isWord, bool hasLock) {
  // Of 16-bit code, segments begin where they make half of a pointer a pointer.
  if (codeBits == 16) *segmentBase = DATA;
  int at = 0;
  uint8_t mandatory = 0, kinds[4];
  int kindCount = 0;
  if (looks & NP) kinds[kindCount++] = 0;
  if (looks & P66) kinds[kindCount++] = 0x66;
  if (looks & PF3) kinds[kindCount++] = 0xf3;
  if (looks & PF2) kinds[kindCount++] = 0xf2;
  if (kindCount > 0) mandatory = kinds[random32() % kindCount];
  if (looks & REP && !oneOf(3)) mandatory = oneOf(2) ? 0xf3 : 0xf2;
  // Where addresses of 32-bit code have 16 bits, only FS gets to DATA.
  *has67 = isLegacy() && oneOf(12);
  bool isShort = *has67 && codeBits == 32;
  if (isShort ? !oneOf(8) : oneOf(20)) {
    bool isFs = isShort || oneOf(2);
    bytes[at++] = isFs ? 0x64 : 0x65;
    *segmentBase = isFs ? FS_BASE : GS_BASE;
  } else if (oneOf(40)) {
    static const uint8_t NULL_PREFIXES[] = {0x26, 0x2e, 0x36, 0x3e};
    bytes[at++] = NULL_PREFIXES[random32() & 3];
    if (codeBits == 16 && bytes[at - 1] == 0x2e) *segmentBase = CODE;
  }
  if (!isLegacy() && oneOf(20)) *has67 = true;
  if (*has67) bytes[at++] = 0x67;
  *isWord = mandatory == 0x66;
  if ((looks & V && !(looks & (P66 | PF3 | PF2)) && oneOf(4)) || (mandatory != 0x66 && oneOf(60))) bytes[at++] = 0x66, *isWord = true;
  if (hasLock) bytes[at++] = 0xf0;
  if (mandatory == 0 && oneOf(60)) mandatory = oneOf(2) ? 0xf3 : 0xf2;
  if (mandatory != 0) bytes[at++] = mandatory;
  if (codeBits == 16) *isWord = !*isWord;
  return at;
}

/** A random instruction for this state. */
static void makeInstruction(struct instruction *made, const struct state *s, int rowNumber) {
  uint8_t *bytes = made->bytes, opcodeAndMore[24];
  struct row random = {0};
  const struct row *row = &random;
  made->row = rowNumber;
  made->hasLength = rowNumber < ROW_COUNT;
  uint32_t opcode;
  if (rowNumber < ROW_COUNT) {
    row = &ROWS[rowNumber];
    opcode = row->first + random32() % (row->last - row->first + 1);
  } else {
    // Any opcode, with what may be a ModRM, and enough of what may be an immediate.
    opcode = (random32() & 3) << 8 | (random32() & 0xff);
    random.looks = M | V | IZ | (oneOf(2) ? 0 : ALL4) | (opcode >= MAP_0F ? 0 : I8);
  }
  uint32_t looks = row->looks;
  bool isByte = looks & V && opcode < MAP_0F && opcode < 0xd0 && !(opcode & 1) && (opcode & 0xc0) != 0x40;
  uint64_t segmentBase = 0;
  bool has67 = false, isWord = false;
  bool isMemory = looks & M ? oneOf(2) || looks & A16 ? oneOf(2) : false : (looks & MM) != 0;
  if (looks & M && looks & (L | BITS)) isMemory = oneOf(2);
  // What is made for one of them is tried with the other, too.
  if (looks & (MR | MM) && oneOf(24)) isMemory = !isMemory;
  bool hasLock = looks & L && isMemory ? oneOf(3) : oneOf(100);
  memset(bytes, FILLER, sizeof made->bytes);
  int at = putPrefixes(bytes, looks, &segmentBase, &has67, &isWord, hasLock);
  uint8_t rex = random32() & 0xf;
  if (!(looks & V) && !oneOf(8)) rex &= ~8;
  if (looks & V && (opcode & ~0xfu) == 0x50) rex &= ~8;
  if (isLegacy()) rex = 0;
  bool isWide = rex & 8;
  int immediate = 0;
  if (looks & IZ) immediate = looks & V && isWord && !isWide ? 2 : 4;
  // In 64-bit mode branches have 32 bits whatever is before them.
  if (looks & IZ && isLegacy() && isWord) immediate = 2;
  if (looks & IV) immediate = isWide ? 8 : isWord ? 2 : 4;
  if (looks & I16) immediate = 2;
  int addressSize = codeBits / 8;
  if (has67) addressSize = codeBits == 32 ? 2 : 4;
  if (looks & MOFFS) immediate = addressSize;
  if (looks & I8) immediate += 1;
  int size = 0;
  if (opcode >= MAP_0F) opcodeAndMore[size++] = 0x0f;
  if (opcode >= MAP_0F3A) opcodeAndMore[size++] = 0x3a;
  else if (opcode >= MAP_0F38) opcodeAndMore[size++] = 0x38;
  opcodeAndMore[size++] = opcode & 0xff;
  if (looks & (M | MR | MM)) {
    int reg = row->groups != 0 && !oneOf(64) ? pickGroup(row->groups) : -1;
    if (looks & BITS && isMemory && !oneOf(4)) {
      int number = pickRegister(s, false);
      reg = number & 7;
      rex = (rex & ~4) | (number >> 3) << 2;
    }
    if (isMemory) {
      // A REX prefix is counted in, wrongly at times.
      size = putMemory(opcodeAndMore, size, s, &rex, reg, segmentBase, addressSize == 2, looks & A16, immediate + at + 1);
    } else {
      uint8_t modrm = 0xc0 | (random32() & 0x3f);
      if (reg >= 0) modrm = (modrm & 0xc7) | reg << 3;
      opcodeAndMore[size++] = modrm;
    }
  }
  // Of REX registers' bits nobody has need; AH to BH exist only without.
  bool hasRex = isLegacy() ? false : rex != 0 ? !(isByte && oneOf(2)) || isWide : oneOf(4);
  if (!hasRex && looks & (IZ | IV) && isWide) hasRex = true;
  if (hasRex) bytes[at++] = 0x40 | rex;
  memcpy(bytes + at, opcodeAndMore, size);
  at += size;
  if (looks & MOFFS && !oneOf(10)) {
    uint64_t want = s->chunk[random32() & 3] - segmentBase;
    memcpy(bytes + at, &want, addressSize);
    at += addressSize;
  } else {
    for (int k = 0; k < immediate; k++) bytes[at++] = random32() >> 9;
    if (looks & (IZ | IV) && oneOf(3)) memset(bytes + at - immediate + 1, oneOf(2) ? 0xff : 0, immediate - 1);
    if (looks & I16 && opcode == 0xc8) bytes[at - 2] = 0, bytes[at - 1] &= oneOf(2) ? 3 : 0xff;
  }
  made->length = at > 15 ? 15 : at;
  if (at > 15) made->hasLength = false;
  memset(bytes + at, FILLER, sizeof made->bytes - at);
  made->parsed = parse(bytes, made->length);
}
