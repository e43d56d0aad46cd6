// SPDX-License-Identifier: Apache-2.0
// The payload assembler's encodings against bytes another assembler gave for the same text.
import { Assembler, type CodeBits } from "../../../src/payload/assembler.ts";
import { byte, dword, Label, qword, word } from "../../../src/payload/registers.ts";
import { assert, describe } from "../../harness.ts";

const hex = (bytes: Uint8Array): string => Array.from(bytes, (value) => value.toString(16).padStart(2, "0")).join(" ");

function assemble(bits: CodeBits, emit: (asm: Assembler) => void, origin = 0x10_0000): string {
  const asm = new Assembler(origin, bits);
  emit(asm);
  return hex(asm.assemble());
}

// biome-ignore format: one instruction to a line
const encodings: [bits: CodeBits, text: string, bytes: string, emit: (asm: Assembler) => void][] = [
  [64, "mov rax, rbx", "48 89 d8", (asm) => asm.mov("rax", "rbx")],
  [64, "mov r8, rdi", "49 89 f8", (asm) => asm.mov("r8", "rdi")],
  [64, "mov eax, r15d", "44 89 f8", (asm) => asm.mov("eax", "r15d")],
  [64, "movabs rax, 0x123456789abcdef0", "48 b8 f0 de bc 9a 78 56 34 12", (asm) => asm.mov("rax", 0x123456789abcdef0n)],
  [64, "movabs r9, 0x1", "49 b9 01 00 00 00 00 00 00 00", (asm) => asm.mov("r9", 1n)],
  [64, "mov rsi, -5", "48 c7 c6 fb ff ff ff", (asm) => asm.mov("rsi", -5)],
  [64, "mov r10d, 0xfee00000", "41 ba 00 00 e0 fe", (asm) => asm.mov("r10d", 0xfee00000)],
  [64, "mov al, 0x20", "b0 20", (asm) => asm.mov("al", 0x20)],
  [64, "mov dx, 0x3f8", "66 ba f8 03", (asm) => asm.mov("dx", 0x3f8)],
  [64, "mov rcx, QWORD PTR ds:0x180100", "48 8b 0c 25 00 01 18 00", (asm) => asm.mov("rcx", qword(0x180100))],
  [64, "mov QWORD PTR ds:0x180100, r12", "4c 89 24 25 00 01 18 00", (asm) => asm.mov(qword(0x180100), "r12")],
  [64, "mov edx, DWORD PTR [rax]", "8b 10", (asm) => asm.mov("edx", dword("rax"))],
  [64, "mov DWORD PTR [rax+4], edx", "89 50 04", (asm) => asm.mov(dword("rax", 4), "edx")],
  [64, "mov rsi, QWORD PTR [rsp]", "48 8b 34 24", (asm) => asm.mov("rsi", qword("rsp"))],
  [64, "mov rsi, QWORD PTR [r12]", "49 8b 34 24", (asm) => asm.mov("rsi", qword("r12"))],
  [64, "mov rdx, QWORD PTR [r13]", "49 8b 55 00", (asm) => asm.mov("rdx", qword("r13"))],
  [64, "mov rdx, QWORD PTR [rbp]", "48 8b 55 00", (asm) => asm.mov("rdx", qword("rbp"))],
  [64, "mov rdx, QWORD PTR [rbx+0x1234]", "48 8b 93 34 12 00 00", (asm) => asm.mov("rdx", qword("rbx", 0x1234))],
  [64, "mov DWORD PTR ds:0x180010, 1", "c7 04 25 10 00 18 00 01 00 00 00", (asm) => asm.mov(dword(0x180010), 1)],
  [64, "mov QWORD PTR [rdi+8], 0", "48 c7 47 08 00 00 00 00", (asm) => asm.mov(qword("rdi", 8), 0)],
  [64, "mov BYTE PTR [rsi], 0x30", "c6 06 30", (asm) => asm.mov(byte("rsi"), 0x30)],
  [64, "movzx edx, al", "0f b6 d0", (asm) => asm.movzx("edx", "al")],
  [64, "movzx ecx, BYTE PTR ds:0x1810dd", "0f b6 0c 25 dd 10 18 00", (asm) => asm.movzx("ecx", byte(0x1810dd))],
  [64, "movsx ecx, BYTE PTR ds:0x1810dc", "0f be 0c 25 dc 10 18 00", (asm) => asm.movsx("ecx", byte(0x1810dc))],
  [64, "mov ds, eax", "8e d8", (asm) => asm.movSegment("ds", "eax")],
  [64, "mov gs, eax", "8e e8", (asm) => asm.movSegment("gs", "eax")],
  [64, "mov cr8, rax", "44 0f 22 c0", (asm) => asm.movToControl(8, "rax")],
  [64, "mov cr2, rsi", "0f 22 d6", (asm) => asm.movToControl(2, "rsi")],
  [64, "mov rdx, cr4", "0f 20 e2", (asm) => asm.movFromControl("rdx", 4)],
  [64, "mov db7, rax", "0f 23 f8", (asm) => asm.movToDebug(7, "rax")],
  [64, "mov rdx, db3", "0f 21 da", (asm) => asm.movFromDebug("rdx", 3)],
  [64, "movdqu xmm3, XMMWORD PTR ds:0x101000", "f3 0f 6f 1c 25 00 10 10 00", (asm) => asm.movdquLoad(3, qword(0x101000))],
  [64, "movdqu XMMWORD PTR ds:0x101010, xmm13", "f3 44 0f 7f 2c 25 10 10 10 00", (asm) => asm.movdquStore(qword(0x101010), 13)],
  [64, "vmovdqu ymm2, YMMWORD PTR ds:0x101000", "c5 fe 6f 14 25 00 10 10 00", (asm) => asm.vmovdquLoad(2, qword(0x101000))],
  [64, "vmovdqu YMMWORD PTR ds:0x101020, ymm15", "c5 7e 7f 3c 25 20 10 10 00", (asm) => asm.vmovdquStore(qword(0x101020), 15)],
  [64, "lea rbx, [rax+5]", "48 8d 58 05", (asm) => asm.lea("rbx", qword("rax", 5))],
  [64, "xor edx, eax", "31 c2", (asm) => asm.xor("edx", "eax")],
  [64, "xor r8, 0x7f", "49 83 f0 7f", (asm) => asm.xor("r8", 0x7f)],
  [64, "paddd xmm1, xmm0", "66 0f fe c8", (asm) => asm.paddd(1, 0)],
  [64, "pxor xmm9, xmm2", "66 44 0f ef ca", (asm) => asm.pxor(9, 2)],
  [64, "addpd xmm3, xmm12", "66 41 0f 58 dc", (asm) => asm.addpd(3, 12)],
  [64, "mulpd xmm8, xmm15", "66 45 0f 59 c7", (asm) => asm.mulpd(8, 15)],
  [64, "push rax", "50", (asm) => asm.push("rax")],
  [64, "push r9", "41 51", (asm) => asm.push("r9")],
  [64, "pop r8", "41 58", (asm) => asm.pop("r8")],
  [64, "push 0xe", "6a 0e", (asm) => asm.pushImmediate(0xe)],
  [64, "add rbx, 0x1000", "48 81 c3 00 10 00 00", (asm) => asm.add("rbx", 0x1000)],
  [64, "add r12, 8", "49 83 c4 08", (asm) => asm.add("r12", 8)],
  [64, "add rdx, QWORD PTR ds:0x181028", "48 03 14 25 28 10 18 00", (asm) => asm.add("rdx", qword(0x181028))],
  [64, "or rax, rdx", "48 09 d0", (asm) => asm.or("rax", "rdx")],
  [64, "or DWORD PTR ds:0x181010, 0x80", "81 0c 25 10 10 18 00 80 00 00 00", (asm) => asm.or(dword(0x181010), 0x80)],
  [64, "or DWORD PTR ds:0x181040, ecx", "09 0c 25 40 10 18 00", (asm) => asm.or(dword(0x181040), "ecx")],
  [64, "and edx, 0xffff0000", "81 e2 00 00 ff ff", (asm) => asm.and("edx", 0xffff0000)],
  [64, "sub rbx, rsi", "48 29 f3", (asm) => asm.sub("rbx", "rsi")],
  [64, "cmp rdx, rsi", "48 39 f2", (asm) => asm.cmp("rdx", "rsi")],
  [64, "cmp rcx, QWORD PTR ds:0x181048", "48 3b 0c 25 48 10 18 00", (asm) => asm.cmp("rcx", qword(0x181048))],
  [64, "cmp QWORD PTR ds:0x181058, 0", "48 83 3c 25 58 10 18 00 00", (asm) => asm.cmp(qword(0x181058), 0)],
  [64, "cmp BYTE PTR [rsi], 0x39", "80 3e 39", (asm) => asm.cmp(byte("rsi"), 0x39)],
  [64, "cmp bl, 0x71", "80 fb 71", (asm) => asm.cmp("bl", 0x71)],
  [64, "test DWORD PTR ds:0x18001c, 2", "f7 04 25 1c 00 18 00 02 00 00 00", (asm) => asm.test(dword(0x18001c), 2)],
  [64, "test ebx, 1", "f7 c3 01 00 00 00", (asm) => asm.test("ebx", 1)],
  [64, "test BYTE PTR [rdi], 0x20", "f6 07 20", (asm) => asm.test(byte("rdi"), 0x20)],
  [64, "inc QWORD PTR ds:0x180100", "48 ff 04 25 00 01 18 00", (asm) => asm.inc(qword(0x180100))],
  [64, "dec rcx", "48 ff c9", (asm) => asm.dec("rcx")],
  [64, "dec r9d", "41 ff c9", (asm) => asm.dec("r9d")],
  [64, "lock or DWORD PTR ds:0x18001c, 2", "f0 83 0c 25 1c 00 18 00 02", (asm) => asm.lockOr(dword(0x18001c), 2)],
  [64, "mul rdx", "48 f7 e2", (asm) => asm.mul("rdx")],
  [64, "neg ecx", "f7 d9", (asm) => asm.neg("ecx")],
  [64, "shl rdx, 32", "48 c1 e2 20", (asm) => asm.shl("rdx", 32)],
  [64, "shr rax, cl", "48 d3 e8", (asm) => asm.shr("rax", "cl")],
  [64, "shrd rax, rdx, 32", "48 0f ac d0 20", (asm) => asm.shrd("rax", "rdx", 32)],
  [64, "ret", "c3", (asm) => asm.ret()],
  [64, "iretq", "48 cf", (asm) => asm.iretq()],
  [64, "in al, dx", "ec", (asm) => asm.in("al", "dx")],
  [64, "in eax, dx", "ed", (asm) => asm.in("eax", "dx")],
  [64, "out dx, ax", "66 ef", (asm) => asm.out("dx", "ax")],
  [64, "out dx, eax", "ef", (asm) => asm.out("dx", "eax")],
  [64, "out 0x21, al", "e6 21", (asm) => asm.out(0x21, "al")],
  [64, "in al, 0x92", "e4 92", (asm) => asm.in("al", 0x92)],
  [64, "lidt [0x101000]", "0f 01 1c 25 00 10 10 00", (asm) => asm.lidt(qword(0x101000))],
  [64, "rdtsc", "0f 31", (asm) => asm.rdtsc()],
  [64, "cpuid", "0f a2", (asm) => asm.cpuid()],
  [64, "rdmsr", "0f 32", (asm) => asm.rdmsr()],
  [64, "wrmsr", "0f 30", (asm) => asm.wrmsr()],
  [64, "xgetbv", "0f 01 d0", (asm) => asm.xgetbv()],
  [64, "xsetbv", "0f 01 d1", (asm) => asm.xsetbv()],
  [64, "pushf", "9c", (asm) => asm.pushfq()],
  [64, "popf", "9d", (asm) => asm.popfq()],
  [64, "cli", "fa", (asm) => asm.cli()],
  [64, "sti", "fb", (asm) => asm.sti()],
  [64, "cld", "fc", (asm) => asm.cld()],
  [64, "stc", "f9", (asm) => asm.stc()],
  [64, "hlt", "f4", (asm) => asm.hlt()],
  [64, "pause", "f3 90", (asm) => asm.pause()],
  [64, "lodsb", "ac", (asm) => asm.lodsb()],
  [64, "rep movsb", "f3 a4", (asm) => asm.repMovsb()],
  [64, "rep stosd", "f3 ab", (asm) => asm.repStosd()],
  [32, "mov edi, 0x180000", "bf 00 00 18 00", (asm) => asm.mov("edi", 0x180000)],
  [32, "mov DWORD PTR ds:0x190000, 0x191003", "c7 05 00 00 19 00 03 10 19 00", (asm) => asm.mov(dword(0x190000), 0x191003)],
  [32, "mov DWORD PTR [edi+4], 0", "c7 47 04 00 00 00 00", (asm) => asm.mov(dword("edi", 4), 0)],
  [32, "inc BYTE PTR [eax]", "fe 00", (asm) => asm.inc(byte("eax"))],
  [32, "mov cr0, eax", "0f 22 c0", (asm) => asm.movToControl(0, "eax")],
  [32, "mov ax, 0x10", "66 b8 10 00", (asm) => asm.mov("ax", 0x10)],
  [32, "lgdt [0x100100]", "0f 01 15 00 01 10 00", (asm) => asm.lgdt(dword(0x100100))],
  [32, "jmp 0x8:0x100200", "ea 00 02 10 00 08 00", (asm) => asm.ljmp(8, 0x100200)],
  [32, "push ebx", "53", (asm) => asm.push("ebx")],
  [32, "pop edi", "5f", (asm) => asm.pop("edi")],
  [32, "cmp ecx, 0x6400000", "81 f9 00 00 40 06", (asm) => asm.cmp("ecx", 0x6400000)],
  [16, "mov ax, 0", "b8 00 00", (asm) => asm.mov("ax", 0)],
  [16, "mov eax, 1", "66 b8 01 00 00 00", (asm) => asm.mov("eax", 1)],
  [16, "mov eax, cr0", "0f 20 c0", (asm) => asm.movFromControl("eax", 0)],
  [16, "mov ds, ax", "8e d8", (asm) => asm.movSegment("ds", "ax")],
  [16, "or bl, 1", "80 cb 01", (asm) => asm.or("bl", 1)],
  [16, "data32 lgdt [0x8020]", "66 0f 01 16 20 80", (asm) => asm.lgdt(word(0x8020))],
  [16, "data32 ljmp 0x18:0x100074", "66 ea 74 00 10 00 18 00", (asm) => asm.ljmp(0x18, 0x100074)],
  [16, "mov cx, WORD PTR [0x7e00]", "8b 0e 00 7e", (asm) => asm.mov("cx", word(0x7e00))],
];

const test = describe("assembler");

for (const [bits, text, bytes, emit] of encodings) {
  test(`${text} (${bits}-bit code)`, () => assert.is(assemble(bits, emit), bytes));
}

test("a jump back in reach is short, a jump forward is near", () => {
  const code = assemble(64, (asm) => {
    const back = asm.label();
    const forward = new Label("forward");
    asm.jcc("ne", back);
    asm.jmp(forward);
    asm.call(back);
    asm.bind(forward);
    asm.jmp(back);
  });
  assert.is(code, "75 fe e9 05 00 00 00 e8 f4 ff ff ff eb f2");
});

test("a jump back out of short reach is near", () => {
  const code = assemble(64, (asm) => {
    const back = asm.label();
    asm.bytes(new Uint8Array(126));
    asm.jmp(back);
    asm.jcc("a", back);
  });
  assert.is(code.slice(3 * 126), "eb 80 0f 87 7a ff ff ff");
});

test("a near jump of 16-bit code has a 16-bit distance", () => {
  const code = assemble(16, (asm) => {
    const forward = new Label("forward");
    asm.jmp(forward);
    asm.hlt();
    asm.bind(forward);
  });
  assert.is(code, "e9 01 00 f4");
});

test("labels are addresses in operands and data", () => {
  const code = assemble(64, (asm) => {
    const label = new Label("label");
    asm.mov("esi", label);
    asm.mov("rax", qword(label, 8));
    asm.align(4);
    asm.bind(label);
    asm.dd(label);
    asm.dq(label);
  });
  assert.is(code, "be 10 00 10 00 48 8b 04 25 18 00 10 00 00 00 00 10 00 10 00 10 00 10 00 00 00 00 00");
});

test("data directives are little-endian", () => {
  const code = assemble(64, (asm) => {
    asm.db(1, 255);
    asm.dw(0x1234);
    asm.dd(0xdead_beef);
    asm.dq(-2n);
    asm.ascii("ok");
  });
  assert.is(code, "01 ff 34 12 ef be ad de fe ff ff ff ff ff ff ff 6f 6b");
});

test("mistakes are errors", () => {
  assert.throws(() => assemble(64, (asm) => asm.jmp(new Label("nowhere"))), "Label nowhere is not bound");
  assert.throws(() => assemble(64, (asm) => asm.mov("rax", "ebx")), "Operands differ in size");
  assert.throws(() => assemble(64, (asm) => asm.mov("rax", qword(0xfee0_0000))), "out of reach");
  assert.throws(() => assemble(64, (asm) => asm.mov("edx", dword("eax"))), "is not an address in 64-bit code");
  assert.throws(() => assemble(32, (asm) => asm.mov("rax", 1)), "64-bit operands need 64-bit code");
  assert.throws(() => assemble(64, (asm) => asm.ljmp(8, 0)), "no direct far jump");
  assert.throws(() => assemble(64, (asm) => asm.mov("eax", 1n)), "64-bit register");
});

test.run();
