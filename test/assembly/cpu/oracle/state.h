// SPDX-License-Identifier: Apache-2.0
// What a case starts from: registers and memory made of a seed and a profile. state.ts makes the same of them, so that a case
// has to hold neither. Whoever changes one changes the other, and makes the corpus anew.
#include <stdint.h>
#include <string.h>

/** Two pages that may be executed and read. Next to them nothing is mapped. */
#define CODE 0x10000000u
#define CODE_SIZE 0x2000u
/** Three pages, of which the last may only be read. Next to them nothing is mapped. */
#define DATA 0x20000000u
#define DATA_SIZE 0x3000u
#define DATA_WRITABLE 0x2000u
/** Inside of DATA; and so small that a pointer into DATA stays one. */
#define FS_BASE 0x20000700u
#define GS_BASE 0x00001000u
/** Where there is no instruction: HLT, which no user may run. */
#define FILLER 0xf4

// Profiles: bits, of what the instruction at hand makes the most.
/** RSI, RDI and RCX fit for strings. */
#define PROFILE_STRING 1
/** RDX is an upper half that divisions like. */
#define PROFILE_DIVIDE 2
/** XMM registers and memory have floating-point numbers. */
#define PROFILE_FLOAT 4
/** The x87 has something in it, and memory what it can load. */
#define PROFILE_X87 8
/** RFLAGS.AC. */
#define PROFILE_ALIGN 16
/** Control words are not the usual ones. */
#define PROFILE_CONTROL 32
/** Memory often equals RAX, or RDX and RAX. */
#define PROFILE_EQUAL 64

/** Little-endian words; offsets are those of state.ts. */
struct state {
  uint64_t gpr[16];
  uint64_t rip;
  uint32_t rflags;
  uint32_t mxcsr;
  uint16_t fcw, fsw;
  /** A bit for each physical register that is not empty. */
  uint8_t valid;
  uint8_t unused[11];
  /** By physical number, 10 bytes each. */
  uint8_t x87[8][16];
  uint8_t xmm[16][16];
  /** Where operands in memory are. */
  uint32_t chunk[4];
};

#define CHUNK_BEFORE 16
#define CHUNK_SIZE 64

static uint32_t derived;

static uint32_t derive(void) {
  derived ^= derived << 13;
  derived ^= derived >> 17;
  derived ^= derived << 5;
  return derived * 0x9e3779b1u;
}

static void startDerivation(uint32_t seed) {
  derived = (seed + 1) * 0x85ebca6bu;
  derived ^= derived >> 15;
  if (derived == 0) derived = 1;
  derive();
  derive();
}

/** 64 bits, of which ends and edges are frequent. */
static void deriveValue(uint32_t *words) {
  uint32_t r = derive(), small = (r >> 8) & 0xff;
  uint64_t bit = 1ull << ((r >> 8) & 63), value;
  switch (r & 15) {
  case 0: value = 0; break;
  case 1:
  case 2: value = small; break;
  case 3: value = ~(uint64_t)small; break;
  case 4: value = bit; break;
  case 5: value = bit - 1; break;
  case 6: value = ~bit; break;
  case 7: value = derive(); break;
  case 8: value = (int64_t)(int32_t)derive(); break;
  case 9: value = small * 0x0101010101010101ull; break;
  default: value = derive(); value |= (uint64_t)derive() << 32;
  }
  words[0] = (uint32_t)value;
  words[1] = (uint32_t)(value >> 32);
}

static const uint32_t SINGLES[16] = {0x00000000, 0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000, 0x7fa12345,
                                     0x00000001, 0x807fffff, 0x00800000, 0x7f7fffff, 0x3f000000, 0x3fc00000, 0x4f000000, 0xcf000000};

static uint32_t deriveSingle(void) {
  uint32_t r = derive(), sign = r & 0x80000000u, more = derive();
  switch (r & 7) {
  case 0: return SINGLES[(r >> 8) & 15];
  // Small integers and halves.
  case 1: return sign | ((124 + ((r >> 8) & 15)) << 23) | (more & 0x7e0000);
  case 2: return sign | (((r >> 8) & 3) << 23) | (more & 0x7fffff);
  case 3: return sign | ((252 + ((r >> 8) & 3)) << 23) | (more & 0x7fffff);
  // Of the size of integers.
  case 4: return sign | ((150 + ((r >> 8) & 63)) << 23) | (more & 0x7fffff);
  default: return sign | ((112 + ((r >> 8) & 31)) << 23) | (more & 0x7fffff);
  }
}

static const uint32_t DOUBLES[16] = {0x00000000, 0x80000000, 0x3ff00000, 0xbff00000, 0x7ff00000, 0xfff00000, 0x7ff80000, 0x7ff12345,
                                     0x36a00000, 0x800fffff, 0x00100000, 0x7fefffff, 0x3fe00000, 0x3ff80000, 0x41e00000, 0xc3e00000};

static void deriveDouble(uint32_t *words) {
  uint32_t r = derive(), sign = r & 0x80000000u, more = derive();
  words[0] = derive();
  switch (r & 7) {
  case 0:
    words[1] = DOUBLES[(r >> 8) & 15];
    words[0] = 0;
    break;
  case 1:
    words[1] = sign | ((1020 + ((r >> 8) & 15)) << 20) | (more & 0xf8000);
    words[0] = 0;
    break;
  case 2: words[1] = sign | (((r >> 8) & 3) << 20) | (more & 0xfffff); break;
  case 3: words[1] = sign | ((2044 + ((r >> 8) & 3)) << 20) | (more & 0xfffff); break;
  // Around the ends of what a single can be.
  case 4: words[1] = sign | ((((r >> 8) & 1 ? 866 : 1146) + ((r >> 9) & 15)) << 20) | (more & 0xfffff); break;
  case 5: words[1] = sign | ((1050 + ((r >> 8) & 31)) << 20) | (more & 0xfffff); break;
  default: words[1] = sign | ((1008 + ((r >> 8) & 31)) << 20) | (more & 0xfffff);
  }
}

/** 80 bits in three words. */
static void deriveExtended(uint32_t *words) {
  uint32_t r = derive(), sign = (r >> 16) & 0x8000, more = (r >> 8) & 0xff;
  words[0] = derive();
  words[1] = derive() | 0x80000000u;
  switch (r & 7) {
  case 0:
    words[0] = 0;
    words[1] = more & 1 ? 0x80000000u : 0;
    words[2] = more & 1 ? (more & 2 ? 0x7fff : 0x3fff) : 0;
    break;
  case 1:
    // Small integers.
    words[0] = 0;
    words[1] &= 0xff000000u;
    words[2] = 0x3ffc + (more & 15);
    break;
  case 2:
    // Denormals, and those that should be none.
    words[1] &= more & 4 ? 0xffffffffu : 0x7fffffffu;
    words[2] = 0;
    break;
  case 3:
    // NaNs; without the integer bit, encodings that are none.
    words[1] &= more & 12 ? 0xffffffffu : 0x7fffffffu;
    words[2] = 0x7fff;
    break;
  case 4: words[2] = (more & 1 ? 0x0000 : 0x7ffe - 64) + (more >> 2); break;
  // Of the size of integers.
  case 5: words[2] = 0x3fff + (more & 127); break;
  default: words[2] = 0x3fff - 16 + (more & 31);
  }
  words[2] |= sign;
}

/** Memory that no chunk covers. */
static void fillPattern(uint8_t *memory) {
  uint32_t *words = (uint32_t *)memory;
  for (uint32_t i = 0; i < DATA_SIZE / 4; i++) words[i] = (i + 1) * 0x9e3779b1u ^ (i << 7);
}

static void deriveChunkPlaces(struct state *s) {
  for (int i = 0; i < 4; i++) {
    uint32_t r = derive(), more = r >> 8, at;
    switch (r & 15) {
    case 0: at = 0x1000 - 32 + (more & 63); break;
    case 1: at = 0x2000 - 32 + (more & 63); break;
    case 2: at = 0x3000 - 32 + (more & 63); break;
    case 3: at = (more & 31) - 16; break;
    case 4: at = 0x2000 + (more & 0xff0); break;
    case 5:
    case 6:
    case 7: at = 0x100 + (more & 0xfff); break;
    default: at = ((more & 63) + 1) << 6;
    }
    s->chunk[i] = DATA + at;
  }
}

static void deriveRegisters(struct state *s, uint32_t profile) {
  uint32_t *words = (uint32_t *)s->gpr;
  for (int n = 0; n < 16; n++) {
    uint32_t r = derive();
    uint32_t *value = words + 2 * n;
    value[1] = 0;
    switch (r & 7) {
    case 0:
    case 1:
    case 2: value[0] = s->chunk[(r >> 3) & 3] + ((r >> 8) & 1 ? (r >> 9) & 7 : 0); break;
    case 3: value[0] = (r >> 8) & 63; break;
    case 4:
      value[0] = words[0];
      value[1] = words[1];
      break;
    default: deriveValue(value);
    }
  }
  words[9] = 0;
  words[8] = s->chunk[0] + (derive() & 7 ? 16 : 5);
  if (profile & PROFILE_STRING) {
    uint32_t r = derive();
    words[2] = r & 15 ? (r >> 4) & 15 : 0;
    words[3] = 0;
    words[12] = s->chunk[(r >> 8) & 3] + ((r >> 10) & 7);
    words[13] = 0;
    words[14] = s->chunk[(r >> 16) & 3] + ((r >> 18) & 7);
    words[15] = 0;
  }
  if (profile & PROFILE_DIVIDE) {
    uint32_t r = derive();
    switch (r & 3) {
    case 0: words[4] = words[5] = 0; break;
    case 1:
      words[5] = (uint32_t)((int32_t)words[1] >> 31);
      words[4] = r & 4 ? words[5] : (uint32_t)((int32_t)words[0] >> 31);
      break;
    case 2:
      words[4] = (r >> 8) & 0xff;
      words[5] = 0;
      break;
    default:;
    }
  }
  uint32_t r = derive();
  s->rflags = 0x202 | (r & 0x8d5);
  if (profile & PROFILE_STRING && !(r & 0x3000)) s->rflags |= 0x400;
  if (profile & PROFILE_ALIGN) s->rflags |= 0x40000;
  r = derive();
  uint32_t place = r >> 8;
  switch (r & 31) {
  case 0: s->rip = CODE + CODE_SIZE - 1 - (place & 15); break;
  case 1: s->rip = CODE + 0x1000 - 1 - (place & 15); break;
  default: s->rip = CODE + 0x40 + (place & 0xeff);
  }
}

static void deriveVectors(struct state *s, uint32_t profile) {
  s->mxcsr = 0x1f80;
  for (int n = 0; n < 16; n++) {
    uint32_t *words = (uint32_t *)s->xmm[n], r = derive();
    if (profile & PROFILE_FLOAT && (r & 7) < 6) {
      if (r & 1) {
        deriveDouble(words);
        deriveDouble(words + 2);
      } else {
        for (int i = 0; i < 4; i++) words[i] = deriveSingle();
      }
    } else {
      deriveValue(words);
      deriveValue(words + 2);
    }
  }
  if (profile & PROFILE_CONTROL) {
    uint32_t r = derive();
    s->mxcsr = r & 0xffff;
    // Some unmasked exception in one of four only.
    if (r & 0x30000) s->mxcsr |= 0x1f80;
  }
}

static void deriveX87(struct state *s, uint32_t profile) {
  s->fcw = 0x37f;
  s->fsw = 0;
  s->valid = 0;
  memset(s->x87, 0, sizeof s->x87);
  if (!(profile & PROFILE_X87)) return;
  for (int n = 0; n < 8; n++) {
    uint32_t words[3];
    deriveExtended(words);
    memcpy(s->x87[n], words, 10);
  }
  uint32_t r = derive();
  s->fsw = r & 0x7800;
  s->valid = 0xff;
  if (!(r & 0x300)) s->valid = (r >> 16) & 0xff;
  if (!(profile & PROFILE_CONTROL)) return;
  r = derive();
  s->fcw = 0x40 | (r & 0xf00) | (r & 0x30000 ? 0x3f : r & 0x3f);
  // Flags of exceptions; with one that is not masked, also the summary and busy bits.
  s->fsw |= (r >> 20) & 0x7f & ((r >> 28) & 1 ? 0x7f : 0);
  s->fsw |= (r >> 29) & 1 ? 0x200 : 0;
  if (s->fsw & 0x3f & ~s->fcw) s->fsw |= 0x8080;
}

/** What a chunk has in it, CHUNK_SIZE bytes from CHUNK_BEFORE bytes before its place on. */
static void deriveChunk(uint32_t *words, const struct state *s, uint32_t profile) {
  const uint32_t *gprs = (const uint32_t *)s->gpr;
  for (int i = 0; i < CHUNK_SIZE / 4; i += 4) {
    uint32_t r = derive(), *to = words + i;
    if (profile & PROFILE_X87 && (r & 3) != 0) {
      switch ((r >> 2) & 3) {
      case 0:
        deriveExtended(to);
        to[3] = 0;
        break;
      case 1:
        // Decimal digits.
        to[0] = derive() & 0x77777777;
        to[1] = derive() & 0x19191919;
        to[2] = r & 0x80800077;
        to[3] = 0;
        break;
      case 2:
        deriveDouble(to);
        deriveDouble(to + 2);
        break;
      default:
        for (int k = 0; k < 4; k++) to[k] = deriveSingle();
      }
    } else if (profile & PROFILE_FLOAT && (r & 7) < 6) {
      if (r & 1) {
        deriveDouble(to);
        deriveDouble(to + 2);
      } else {
        for (int k = 0; k < 4; k++) to[k] = deriveSingle();
      }
    } else if (profile & PROFILE_EQUAL && (r & 7) < 6) {
      to[0] = gprs[0];
      to[1] = r & 1 ? gprs[1] : gprs[4];
      to[2] = gprs[4];
      to[3] = gprs[5];
    } else if (profile & PROFILE_STRING && (r & 3) != 0) {
      // So that comparisons go on for some time.
      for (int k = 0; k < 4; k++) to[k] = (gprs[0] & 0xff) * 0x01010101u;
      if (!(r & 0x30)) to[(r >> 6) & 3] = derive();
    } else {
      deriveValue(to);
      deriveValue(to + 2);
    }
  }
}

/** Registers, and what DATA has in it. */
static void deriveState(uint32_t seed, uint32_t profile, struct state *s, uint8_t *memory, const uint8_t *pattern) {
  startDerivation(seed);
  memset(s->unused, 0, sizeof s->unused);
  deriveChunkPlaces(s);
  deriveRegisters(s, profile);
  deriveVectors(s, profile);
  deriveX87(s, profile);
  memcpy(memory, pattern, DATA_SIZE);
  for (int i = 0; i < 4; i++) {
    uint32_t words[CHUNK_SIZE / 4];
    deriveChunk(words, s, profile);
    int32_t at = (int32_t)(s->chunk[i] - DATA) - CHUNK_BEFORE;
    for (int k = 0; k < CHUNK_SIZE; k++) {
      if (at + k >= 0 && at + k < (int32_t)DATA_SIZE) memory[at + k] = ((uint8_t *)words)[k];
    }
  }
}
