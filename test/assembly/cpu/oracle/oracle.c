// SPDX-License-Identifier: Apache-2.0
// Has this machine's CPU run random instructions, one at a time, and writes down what each did: cases for the engine.
//
//   gcc -O2 -o oracle oracle.c && ./oracle --cases 1000000 [--bits 32] [--seed 7] [--per-form 12] [--tries 5000000] [--row 3] > cases
//
// A worker process goes from case to case inside of its signal handler: the handler makes registers and an instruction, and
// returns with RFLAGS.TF set. The kernel loads those registers, the CPU runs the one instruction, and #DB, or whatever
// exception it raised, brings the worker back into the handler, which finds registers, vector and error code in its frame.
// That takes two ways through the kernel for a case, and no switch to another process. A worker that an instruction has
// killed is replaced.
//
// With 32 bits the handler returns to compatibility mode: to a CS that the kernel has for 32-bit programs, with 16 bits to one in
// an LDT of ours. Exceptions come to it in 64-bit mode all the same.
//
// The form of a case: cases.ts.
#define _GNU_SOURCE
#include <asm/ldt.h>
#include <asm/prctl.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/ucontext.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sequence.h"

#define NO_VECTOR 0xff
/** Selectors of the kernel's, and in our LDT; rig.ts has the same. */
#define CODE_32 0x23
#define DATA_32 0x2b
#define FS_LEGACY 0x07
#define GS_LEGACY 0x0f
#define CODE_16 0x17
#define DATA_16 0x1f
/** Iterations of a string instruction: those of longer ones are no cases. */
#define MAX_STEPS 64
#define BATCH_SIZE (256 << 10)
#define FORM_COUNT (1 << 22)

/** What a worker leaves to the next one. */
static struct {
  uint64_t wanted, written, tried;
  /** There may be no more cases that are wanted: 0 for any number. */
  uint64_t mostTries;
  uint32_t seed, perForm;
  /** Of the last case that was written. */
  uint32_t lastSeed;
  /** Only this row, if it is not negative. */
  int32_t onlyRow;
  bool areSequences;
  uint8_t forms[FORM_COUNT];
} *shared;

static uint8_t *codeAlias, *dataAlias;
static uint8_t pattern[DATA_SIZE], before[DATA_SIZE];
static uint8_t batch[BATCH_SIZE + 8192], *end = batch;
static uint32_t inBatch, seed, lastSeed;
static struct state start, outcome;
static struct instruction instruction;
static struct sequence sequence;
static uint8_t profile;
static bool isRepeated, isRunning;
static int steps;
/** Where the instruction before was, in CODE. */
static uint32_t lastAt;
static enum fate fate;

// The handler runs with the FS base of the cases: no function that needs thread-local variables, such as errno, is for it.

static long rawSyscall(long number, long a, long b, long c) {
  long result;
  __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
  return result;
}

static void flush(void) {
  for (uint8_t *at = batch; at < end;) {
    long count = rawSyscall(SYS_write, 1, (long)at, end - at);
    if (count <= 0) rawSyscall(SYS_exit_group, 2, 0, 0);
    at += count;
  }
  shared->written += inBatch;
  shared->lastSeed = lastSeed;
  end = batch;
  inBatch = 0;
}

static void put(const void *bytes, int count) {
  memcpy(end, bytes, count);
  end += count;
}

static void putNumber(uint64_t value) {
  for (; value >= 0x80; value >>= 7) *end++ = (uint8_t)value | 0x80;
  *end++ = (uint8_t)value;
}

/** What has this number of cases already is no new one. */
static bool isWanted(uint8_t vector) {
  if (shared->perForm == 0) return true;
  const struct parsed *p = &instruction.parsed;
  bool hasModrm = instruction.row == ROW_COUNT || ROWS[instruction.row].looks & (M | MR | MM);
  uint64_t key = instruction.row;
  key = key << 10 | p->opcode;
  key = key << 9 | (hasModrm ? (p->modrm >= 0xc0) << 8 : 0);
  if (hasModrm && instruction.row < ROW_COUNT) key |= ROWS[instruction.row].groups || ROWS[instruction.row].profile == PROFILE_X87 ? p->modrm & 0x38 : 0;
  if (hasModrm && p->opcode == 0xd9 && p->modrm >= 0xc0) key |= p->modrm;
  key = key << 5 | p->has66 << 4 | p->hasF2 << 3 | p->hasF3 << 2 | p->hasLock << 1 | p->hasRexW;
  key = key << 8 | vector;
  key *= 0x9e3779b97f4a7c15ull;
  uint8_t *count = &shared->forms[key >> 42];
  uint32_t most = instruction.row == ROW_COUNT ? (shared->perForm + 3) / 4 : shared->perForm;
  if (vector != NO_VECTOR) most = (most + 1) / 2;
  if (*count >= most) return false;
  ++*count;
  return true;
}

#define CHANGED_RIP 1
#define CHANGED_RFLAGS 2
#define CHANGED_GPRS 4
#define CHANGED_XMMS 8
#define CHANGED_MXCSR 16
#define CHANGED_X87 32
#define CHANGED_MEMORY 64
/** Of RFLAGS: not TF, by which we step, and not RF. */
#define COMPARED_FLAGS 0x244ed7u

/** Bytes of DATA that are others now: runs of up to 255, with gaps of less than 3. Returns their number. */
static int putMemoryChanges(void) {
  int count = 0;
  for (int line = 0; line < (int)DATA_SIZE; line += 64) {
    if (memcmp(before + line, dataAlias + line, 64) == 0) continue;
    for (int at = line; at < line + 64; at++) {
      if (before[at] == dataAlias[at]) continue;
      int last = at, limit = at + 255 > (int)DATA_SIZE ? (int)DATA_SIZE : at + 255;
      for (int k = at; k < limit && k < last + 4; k++) {
        if (before[k] != dataAlias[k]) last = k;
      }
      uint16_t offset = at;
      uint8_t length = last - at + 1;
      put(&offset, 2);
      put(&length, 1);
      put(dataAlias + at, length);
      count++;
      at = last;
      line = at & ~63;
    }
  }
  return count;
}

static void putGprs(void) {
  uint16_t mask = 0;
  for (int n = 0; n < 16; n++) mask |= (start.gpr[n] != outcome.gpr[n]) << n;
  put(&mask, 2);
  for (int n = 0; n < 16; n++) {
    if (!(mask >> n & 1)) continue;
    uint8_t length = outcome.gpr[n] == 0 ? 0 : 8 - __builtin_clzll(outcome.gpr[n]) / 8;
    put(&length, 1);
    put(&outcome.gpr[n], length);
  }
}

static void putXmms(void) {
  uint16_t mask = 0;
  for (int n = 0; n < 16; n++) mask |= (memcmp(start.xmm[n], outcome.xmm[n], 16) != 0) << n;
  put(&mask, 2);
  for (int n = 0; n < 16; n++) {
    if (mask >> n & 1) put(outcome.xmm[n], 16);
  }
}

static void putX87(void) {
  uint8_t mask = 0;
  for (int n = 0; n < 8; n++) mask |= (memcmp(start.x87[n], outcome.x87[n], 10) != 0) << n;
  put(&outcome.fcw, 2);
  put(&outcome.fsw, 2);
  put(&outcome.valid, 1);
  put(&mask, 1);
  for (int n = 0; n < 8; n++) {
    if (mask >> n & 1) put(outcome.x87[n], 10);
  }
}

static bool isX87Changed(void) {
  return start.fcw != outcome.fcw || start.fsw != outcome.fsw || start.valid != outcome.valid || memcmp(start.x87, outcome.x87, sizeof start.x87);
}

static void writeCase(uint8_t vector, uint64_t errorCode, uint64_t address) {
  int length = instruction.length;
  uint64_t advance = outcome.rip - start.rip;
  const uint8_t *bytes = instruction.bytes;
  if (shared->areSequences) {
    length = sequence.length;
    bytes = sequence.bytes;
  }
  // Of random opcodes nobody knew how long they are. Branches go elsewhere.
  uint32_t op = instruction.parsed.opcode;
  bool mayBranch = (op & ~0xfu) == 0x70 || (op & ~0xfu) == (MAP_0F | 0x80) || op == 0xc2 || op == 0xc3 || (op & ~3u) == 0xe0 ||
                   (op & ~3u) == 0xe8 || op == 0xff;
  if (!shared->areSequences && !instruction.hasLength && vector == NO_VECTOR && !mayBranch && advance != 0 && advance <= 15) length = advance;
  uint64_t expected = vector == NO_VECTOR ? start.rip + length : start.rip;
  *end++ = length;
  *end++ = profile;
  putNumber(seed - lastSeed);
  lastSeed = seed;
  put(bytes, length);
  if (shared->areSequences) {
    *end++ = sequence.count;
    put(sequence.lengths, sequence.count);
  }
  *end++ = vector;
  if (vector != NO_VECTOR) putNumber(errorCode);
  if (vector == 14) put(&address, 8);
  uint8_t *changed = end++;
  *changed = 0;
  if (outcome.rip != expected) {
    *changed |= CHANGED_RIP;
    put(&outcome.rip, 8);
  }
  if ((outcome.rflags ^ start.rflags) & COMPARED_FLAGS) {
    *changed |= CHANGED_RFLAGS;
    putNumber(outcome.rflags & COMPARED_FLAGS);
  }
  if (memcmp(start.gpr, outcome.gpr, sizeof start.gpr)) {
    *changed |= CHANGED_GPRS;
    putGprs();
  }
  if (memcmp(start.xmm, outcome.xmm, sizeof start.xmm)) {
    *changed |= CHANGED_XMMS;
    putXmms();
  }
  if (start.mxcsr != outcome.mxcsr) {
    *changed |= CHANGED_MXCSR;
    put(&outcome.mxcsr, 4);
  }
  if (isX87Changed()) {
    *changed |= CHANGED_X87;
    putX87();
  }
  uint8_t *count = end++;
  *count = putMemoryChanges();
  if (*count > 0) *changed |= CHANGED_MEMORY;
  else end--;
  inBatch++;
  seed++;
  if (end > batch + BATCH_SIZE - 8192) flush();
}

static const int GREGS[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

/** The legacy part of the XSAVE area, SDM volume 1, table 10-2. */
struct fxsave {
  uint16_t fcw, fsw;
  uint8_t valid, reserved;
  uint16_t opcode;
  uint64_t ip, dp;
  uint32_t mxcsr, mxcsrMask;
  uint8_t st[8][16], xmm[16][16];
  uint8_t more[96];
  uint64_t components;
};

/** Of 16-bit code, RIP is an offset in CODE. */
static uint64_t codeBase(void) { return codeBits == 16 ? CODE : 0; }

static void load(ucontext_t *context) {
  greg_t *gregs = context->uc_mcontext.gregs;
  struct fxsave *fp = (struct fxsave *)context->uc_mcontext.fpregs;
  for (int n = 0; n < 16; n++) gregs[GREGS[n]] = start.gpr[n];
  gregs[REG_RIP] = start.rip - codeBase();
  // CS is the lowest of four, SS the highest.
  uint64_t segments = gregs[REG_CSGSFS] & 0x0000ffffffff0000;
  if (codeBits == 32) gregs[REG_CSGSFS] = segments | (uint64_t)DATA_32 << 48 | CODE_32;
  if (codeBits == 16) gregs[REG_CSGSFS] = segments | (uint64_t)DATA_16 << 48 | CODE_16;
  // A sequence runs up to the HLT behind it.
  gregs[REG_EFL] = shared->areSequences ? start.rflags : start.rflags | 0x100;
  fp->fcw = start.fcw;
  fp->fsw = start.fsw;
  fp->valid = start.valid;
  fp->opcode = 0;
  fp->ip = fp->dp = 0;
  fp->mxcsr = start.mxcsr;
  for (int n = 0; n < 8; n++) memcpy(fp->st[n], start.x87[(n + (start.fsw >> 11)) & 7], 16);
  memcpy(fp->xmm, start.xmm, sizeof start.xmm);
  // x87 and SSE; of the others the initial state.
  fp->components = 3;
}

static void store(const ucontext_t *context) {
  const greg_t *gregs = context->uc_mcontext.gregs;
  const struct fxsave *fp = (struct fxsave *)context->uc_mcontext.fpregs;
  outcome = start;
  // What 32-bit code makes of upper halves, and of the registers that it does not see, is undefined.
  uint64_t defined = isLegacy() ? 0xffffffff : ~0ull;
  for (int n = 0; n < (isLegacy() ? 8 : 16); n++) outcome.gpr[n] = (start.gpr[n] & ~defined) | (gregs[GREGS[n]] & defined);
  outcome.rip = gregs[REG_RIP] + codeBase();
  outcome.rflags = gregs[REG_EFL];
  if (fp->components & 1) {
    outcome.fcw = fp->fcw;
    outcome.fsw = fp->fsw;
    outcome.valid = fp->valid;
    for (int n = 0; n < 8; n++) memcpy(outcome.x87[(n + (fp->fsw >> 11)) & 7], fp->st[n], 10);
  } else {
    // In its initial state, which is not written into the frame.
    outcome.fcw = 0x37f;
    outcome.fsw = outcome.valid = 0;
    memset(outcome.x87, 0, sizeof outcome.x87);
  }
  outcome.mxcsr = fp->mxcsr;
  if (fp->components & 2) memcpy(outcome.xmm, fp->xmm, sizeof outcome.xmm);
  else memset(outcome.xmm, 0, sizeof outcome.xmm);
}

/** What the CPU did because it was stepped, or because it is another than the engine's. */
static void correct(uint8_t vector) {
  const struct parsed *p = &instruction.parsed;
  uint64_t stack = outcome.gpr[4] - DATA;
  // PUSHF pushed TF, too.
  if (p->opcode == 0x9c && vector == NO_VECTOR && stack + 1 < DATA_SIZE) dataAlias[stack + 1] &= ~1;
  // FXSAVE writes MXCSR_MASK, where AMD has one more bit.
  if (p->opcode == (MAP_0F | 0xae) && (p->modrm & 0xf8) < 0xc0 && !(p->modrm & 0x38)) {
    for (int at = 0; at + 32 <= (int)DATA_SIZE; at++) {
      uint32_t mask, mxcsr;
      memcpy(&mask, dataAlias + at, 4);
      if ((at & 15) != 12 || mask != 0x2ffff || memcmp(before + at, dataAlias + at, 4) == 0) continue;
      memcpy(&mxcsr, dataAlias + at - 4, 4);
      if (mxcsr == start.mxcsr) dataAlias[at + 2] = 0;
    }
  }
}

static uint8_t pickProfile(const struct row *row) {
  uint8_t bits = row == NULL ? random32() & (PROFILE_FLOAT | PROFILE_X87 | PROFILE_EQUAL) : row->profile;
  if (oneOf(24)) bits |= PROFILE_ALIGN;
  if (bits & (PROFILE_FLOAT | PROFILE_X87) && oneOf(4)) bits |= PROFILE_CONTROL;
  return bits;
}

/** What the bytes behind a random opcode are, nobody knows: it must not see them as data, nor may the end of the page be among them. */
static bool isAmbiguous(void) {
  // UD1 has a ModRM on Intel's, and on AMD's it is not read.
  if (instruction.hasLength && instruction.parsed.opcode != (MAP_0F | 0xb9)) return false;
  return (instruction.parsed.modrm & 0xc7) == 5 || (start.rip & 0xfff) > 0xff0;
}

static void placeCode(const uint8_t *bytes, int length) {
  uint32_t at = start.rip - CODE, most = sizeof sequence.bytes;
  memset(codeAlias + lastAt, FILLER, lastAt + most > CODE_SIZE ? CODE_SIZE - lastAt : most);
  lastAt = at;
  for (int k = 0; k < length && at + k < CODE_SIZE; k++) codeAlias[at + k] = bytes[k];
}

static void startRandom(void) {
  randomState = ((uint64_t)shared->seed << 40) + shared->tried;
  randomState = (randomState ^ 0x2545f4914f6cdd1dull) * 0x9e3779b97f4a7c15ull;
  random32();
  random32();
}

/** Makes the next sequence. */
static void prepareSequence(void) {
  do {
    shared->tried++;
    startRandom();
    profile = pickSequenceProfile();
    deriveState(seed, profile & ~PROFILE_SEQUENCE, &start, before, pattern);
    makeSequence(&sequence, &start);
  } while (sequence.count < 2);
  memcpy(dataAlias, before, DATA_SIZE);
  placeCode(sequence.bytes, sequence.length);
  isRepeated = false;
  isRunning = true;
}

/** Makes the next case. */
static void prepare(void) {
  for (;;) {
    shared->tried++;
    startRandom();
    int row = oneOf(10) ? ROW_COUNT : (int)(random32() % rowCount());
    if (shared->onlyRow >= 0) row = shared->onlyRow;
    profile = pickProfile(row == ROW_COUNT ? NULL : &ROWS[row]);
    deriveState(seed, profile, &start, before, pattern);
    makeInstruction(&instruction, &start, row);
    fate = fateOf(&instruction.parsed);
    if (fate == SKIP || isAmbiguous()) continue;
    // The engine's #UD of the absent is only sure where all of it can be read.
    if (fate == ABSENT) {
      if ((start.rip & 0xfff) > 0xff0) continue;
      outcome = start;
      memcpy(dataAlias, before, DATA_SIZE);
      if (isWanted(6)) writeCase(6, 0, 0);
      continue;
    }
    break;
  }
  memcpy(dataAlias, before, DATA_SIZE);
  placeCode(instruction.bytes, instruction.length);
  // Outside of 64-bit mode every segment prefix counts: the one that it has, once more.
  uint8_t segment = isLegacy() && instruction.parsed.segment ? instruction.parsed.segment : 0x3e;
  if (fate == WITHOUT_F3) codeAlias[start.rip - CODE + instruction.parsed.f3At] = segment;
  uint32_t op = instruction.parsed.opcode;
  isRepeated = (instruction.parsed.hasF2 || instruction.parsed.hasF3) && ((op >= 0xa4 && op <= 0xa7) || (op >= 0xaa && op <= 0xaf));
  steps = 0;
  isRunning = true;
}

/** What the instruction raised, NO_VECTOR for nothing. */
static uint8_t vectorOf(int signal, const greg_t *gregs) {
  if (shared->areSequences && gregs[REG_TRAPNO] == 13 && gregs[REG_RIP] == (greg_t)(start.rip + sequence.length - codeBase())) return NO_VECTOR;
  // Of exceptions the kernel says which.
  return signal == SIGTRAP && gregs[REG_TRAPNO] == 1 ? NO_VECTOR : gregs[REG_TRAPNO];
}

__attribute__((used)) static void handle(int signal, siginfo_t *info, ucontext_t *context) {
  (void)info;
  greg_t *gregs = context->uc_mcontext.gregs;
  if (isRunning) {
    uint8_t vector = vectorOf(signal, gregs);
    // TF is looked at after every iteration.
    if (isRepeated && vector == NO_VECTOR && gregs[REG_RIP] == (greg_t)(start.rip - codeBase())) {
      if (++steps < MAX_STEPS) return;
    } else {
      uint64_t address = vector == 14 ? gregs[REG_CR2] : 0, errorCode = vector >= 10 && vector <= 14 ? gregs[REG_ERR] : 0;
      store(context);
      if (!shared->areSequences) correct(vector);
      if (shared->areSequences || isWanted(vector)) writeCase(vector, errorCode, address);
    }
  }
  if (shared->written + inBatch >= shared->wanted || (shared->mostTries != 0 && shared->tried >= shared->mostTries)) {
    flush();
    rawSyscall(SYS_exit_group, 0, 0, 0);
  }
  if (shared->areSequences) prepareSequence();
  else prepare();
  load(context);
}

/** Where signals arrive, with flags that the case has set: AC above all. */
void enter(int signal, siginfo_t *info, void *context);
__asm__("enter: pushq $2; popfq; jmp handle");

static void work(void) {
  static uint8_t stack[65536] __attribute__((aligned(64)));
  stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
  sigaltstack(&alternate, NULL);
  struct sigaction action = {.sa_sigaction = enter, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  static const int SIGNALS[] = {SIGTRAP, SIGSEGV, SIGBUS, SIGILL, SIGFPE};
  for (int i = 0; i < 5; i++) sigaction(SIGNALS[i], &action, NULL);
  // What would be a system call all the same is SIGSYS, which nobody handles.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  lastSeed = shared->lastSeed;
  seed = lastSeed + 1;
  // The kernel puts pages into its tables when somebody reads them; a page fault of a write would say that there is none.
  for (uint32_t at = 0; at < DATA_SIZE; at += 4096) *(volatile uint8_t *)(uintptr_t)(DATA + at);
  if (isLegacy()) {
    __asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %1, %%fs; mov %2, %%gs" ::"r"(codeBits == 16 ? DATA_16 : DATA_32),
                     "r"(FS_LEGACY), "r"(GS_LEGACY));
  } else {
    rawSyscall(SYS_arch_prctl, ARCH_SET_GS, GS_BASE, 0);
    rawSyscall(SYS_arch_prctl, ARCH_SET_FS, FS_BASE, 0);
  }
  __asm__ volatile("int3");
}

/** A segment in the LDT, from `base` on without an end. */
static bool makeSegment(uint32_t selector, uint32_t base, bool is32, bool isCode) {
  struct user_desc descriptor = {.entry_number = selector >> 3, .base_addr = base, .limit = 0xfffff, .limit_in_pages = 1, .useable = 1};
  descriptor.seg_32bit = is32;
  descriptor.contents = isCode ? MODIFY_LDT_CONTENTS_CODE : MODIFY_LDT_CONTENTS_DATA;
  return syscall(SYS_modify_ldt, 1, &descriptor, sizeof descriptor) == 0;
}

static uint8_t *mapTwice(const char *name, uint32_t address, uint32_t size, int protection) {
  int fd = memfd_create(name, 0);
  if (fd < 0 || ftruncate(fd, size) < 0) return NULL;
  void *fixed = mmap((void *)(uintptr_t)address, size, protection, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
  void *alias = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  return fixed == MAP_FAILED || alias == MAP_FAILED ? NULL : alias;
}

int main(int argc, char **argv) {
  shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  shared->wanted = 1000;
  shared->onlyRow = -1;
  for (int i = 1; i + 1 < argc; i += 2) {
    uint64_t value = strtoull(argv[i + 1], NULL, 0);
    if (strcmp(argv[i], "--cases") == 0) shared->wanted = value;
    else if (strcmp(argv[i], "--seed") == 0) shared->seed = value;
    else if (strcmp(argv[i], "--per-form") == 0) shared->perForm = value;
    else if (strcmp(argv[i], "--tries") == 0) shared->mostTries = value;
    else if (strcmp(argv[i], "--sequences") == 0) shared->areSequences = value;
    else if (strcmp(argv[i], "--row") == 0) shared->onlyRow = value;
    else if (strcmp(argv[i], "--bits") == 0) codeBits = value;
    else return fprintf(stderr, "oracle: what is %s?\n", argv[i]), 1;
  }
  shared->lastSeed = shared->seed << 20;
  codeAlias = mapTwice("code", CODE, CODE_SIZE, PROT_READ | PROT_EXEC);
  dataAlias = mapTwice("data", DATA, DATA_SIZE, PROT_READ | PROT_WRITE);
  if (codeAlias == NULL || dataAlias == NULL) return perror("oracle: mmap"), 1;
  mprotect((void *)(uintptr_t)(DATA + DATA_WRITABLE), DATA_SIZE - DATA_WRITABLE, PROT_READ);
  if (isLegacy() && !(makeSegment(FS_LEGACY, FS_BASE, true, false) && makeSegment(GS_LEGACY, GS_BASE, true, false) &&
                      makeSegment(CODE_16, CODE, false, true) && makeSegment(DATA_16, DATA, false, false))) {
    return perror("oracle: modify_ldt"), 1;
  }
  fillPattern(pattern);
  memset(codeAlias, FILLER, CODE_SIZE);
  int deaths = 0;
  while (shared->written < shared->wanted) {
    uint64_t triedBefore = shared->tried;
    pid_t worker = fork();
    if (worker == 0) {
      work();
      _exit(4);
    }
    int status;
    if (waitpid(worker, &status, 0) < 0) return perror("oracle: waitpid"), 1;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) break;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 2) return 2;
    fprintf(stderr, "oracle: a worker ended with %x after %lu tries\n", status, shared->tried - triedBefore);
    if (++deaths > 200) return 1;
  }
  // Without new ones for the forms, there may be fewer than asked for.
  fprintf(stderr, "oracle: %lu cases of %lu tried\n", shared->written, shared->tried);
  return 0;
}
