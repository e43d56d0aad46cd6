// SPDX-License-Identifier: Apache-2.0
// The payload's console on COM1: banner, numbered lines, echo, and the end of the VM. Runs on vCPU 0.
//
// PC16550D data sheet; Intel 82093AA (I/O APIC) for the interrupt.
import type { Assembler } from "./assembler.ts";
import { endOfInterrupt } from "./lapic.ts";
import { COM1, IOAPIC_GPA, type VcpuProgram, VECTOR_SERIAL } from "./plan.ts";
import { byte, dword, Label } from "./registers.ts";
import {
  COMMAND_SHUTDOWN,
  CPU_LAST_TICKS_U64,
  CPU_LINE_TICKS_U64,
  ERROR_CONSOLE_STUCK,
  HEADER_COMMAND_U32,
  HEADER_ECHOED_U32,
  HEADER_LINES_U32,
  HEADER_PHASE_U32,
  PHASE_SHUTDOWN,
  REPORT_GPA,
} from "./report.ts";

const THR = COM1;
const IER = COM1 + 1;
const FCR = COM1 + 2;
const LCR = COM1 + 3;
const MCR = COM1 + 4;
const LSR = COM1 + 5;

const IER_RECEIVED = 1;
const FCR_ENABLE_AND_CLEAR = 7;
const LCR_8N1 = 3;
const LCR_DLAB = 0x80;
/** DTR, RTS, and OUT2, which on a PC connects the interrupt line. */
const MCR_READY = 0x0b;
const LSR_DATA_READY = 1;
const LSR_THR_EMPTY = 0x20;

const PIC_MASKS = [0x21, 0xa1];
const COM1_PIN = 4;
const IOAPIC_WINDOW = IOAPIC_GPA + 0x10;

/** Looks at the line status before a byte is sent regardless. */
const SEND_LIMIT = 0x10_0000;

const LINE = "tick 00000000\n";
const LAST_DIGIT = LINE.length - 2;

/** The subroutines and handlers of the console. */
export class Console {
  readonly #program: VcpuProgram;
  /** Sends al. Changes rdx and rcx. */
  readonly #send = new Label("send");
  readonly #sendText = new Label("sendText");
  readonly #drain = new Label("drain");
  readonly #line: Label;

  constructor(program: VcpuProgram) {
    this.#program = program;
    this.#line = program.constant(1, (asm) => asm.ascii(LINE + "\0"));
  }

  /** Emits the subroutines, and the handler of IRQ 4, which is returned if the console echoes by interrupt. */
  emitRoutines(): Label | undefined {
    const { asm, settings } = this.#program;
    if (!settings.serial) return undefined;
    this.#emitSend();
    this.#emitSendText();
    if (settings.echo === "off") return undefined;
    this.#emitDrain();
    if (settings.echo !== "irq") return undefined;
    const handler = asm.label("serialHandler");
    for (const register of ["rax", "rcx", "rdx", "rbx"] as const) asm.push(register);
    // Acknowledged first: the line is edge-triggered, and a byte that comes while draining must raise it again.
    endOfInterrupt(asm);
    asm.call(this.#drain);
    for (const register of ["rbx", "rdx", "rcx", "rax"] as const) asm.pop(register);
    asm.iretq();
    return handler;
  }

  #emitSend(): void {
    const { asm } = this.#program;
    const ready = new Label("ready");
    asm.bind(this.#send);
    asm.push("rax");
    asm.mov("ecx", SEND_LIMIT);
    asm.mov("dx", LSR);
    const again = asm.label("again");
    asm.in("al", "dx");
    asm.test("al", LSR_THR_EMPTY);
    asm.jcc("ne", ready);
    this.#program.step();
    asm.pause();
    asm.dec("ecx");
    asm.jcc("ne", again);
    for (const register of ["rdi", "rsi", "r8", "r9"] as const) asm.push(register);
    asm.mov("edi", ERROR_CONSOLE_STUCK);
    asm.mov("rsi", LSR_THR_EMPTY);
    asm.movzx("edx", "al");
    asm.mov("r8d", LSR);
    asm.call(this.#program.recordError);
    for (const register of ["r9", "r8", "rsi", "rdi"] as const) asm.pop(register);
    asm.bind(ready);
    asm.pop("rax");
    asm.mov("dx", THR);
    asm.out("dx", "al");
    this.#program.step();
    asm.ret();
  }

  /** Sends the zero-terminated text at rsi. Changes rax, rcx, rdx, rsi. */
  #emitSendText(): void {
    const { asm } = this.#program;
    const done = new Label("done");
    asm.bind(this.#sendText);
    const next = asm.label("next");
    asm.lodsb();
    asm.cmp("al", 0);
    asm.jcc("e", done);
    asm.call(this.#send);
    asm.jmp(next);
    asm.bind(done);
    asm.ret();
  }

  /** Sends back what COM1 has received. Changes rax, rcx, rdx, rbx. */
  #emitDrain(): void {
    const { asm, settings } = this.#program;
    const done = new Label("done");
    const end = new Label("end");
    asm.bind(this.#drain);
    const next = asm.label("next");
    asm.mov("dx", LSR);
    asm.in("al", "dx");
    asm.test("al", LSR_DATA_READY);
    asm.jcc("e", done);
    asm.mov("dx", THR);
    asm.in("al", "dx");
    if (settings.quitByte !== undefined) {
      asm.cmp("al", settings.quitByte);
      asm.jcc("e", end);
    }
    asm.call(this.#send);
    asm.inc(dword(REPORT_GPA, HEADER_ECHOED_U32));
    asm.jmp(next);
    asm.bind(done);
    asm.ret();
    asm.bind(end);
    this.#emitShutdown();
  }

  /** Emits the programming of COM1, its interrupt, and the interrupt controllers, and prints the banner. */
  emitStart(banner: string): void {
    const { asm, settings } = this.#program;
    for (const port of PIC_MASKS) {
      asm.mov("al", 0xff);
      asm.out(port, "al");
    }
    if (!settings.serial) return;
    const write = (port: number, value: number): void => writePort(asm, port, value);
    write(IER, 0);
    write(LCR, LCR_8N1 | LCR_DLAB);
    write(COM1, 1);
    write(COM1 + 1, 0);
    write(LCR, LCR_8N1);
    write(FCR, FCR_ENABLE_AND_CLEAR);
    write(MCR, MCR_READY);
    const text = this.#program.constant(1, () => asm.ascii(banner + "\0"));
    asm.mov("esi", text);
    asm.call(this.#sendText);
    if (settings.echo !== "irq") return;
    // Edge-triggered, active high, to the APIC with id 0.
    this.#writeIoapic(0x10 + 2 * COM1_PIN + 1, 0);
    this.#writeIoapic(0x10 + 2 * COM1_PIN, VECTOR_SERIAL);
    write(IER, IER_RECEIVED);
  }

  #writeIoapic(register: number, value: number): void {
    const { asm } = this.#program;
    asm.mov("eax", IOAPIC_GPA);
    asm.mov(dword("rax"), register);
    asm.mov("eax", IOAPIC_WINDOW);
    asm.mov(dword("rax"), value);
  }

  /** Emits one text, to be called outside interrupt handlers. */
  emitText(text: string): void {
    const { asm, settings } = this.#program;
    if (!settings.serial) return;
    const constant = this.#program.constant(1, () => asm.ascii(text + "\0"));
    asm.cli();
    asm.mov("esi", constant);
    asm.call(this.#sendText);
    asm.sti();
  }

  /** Emits what a round does for the console: the numbered line, the echo, the shutdown command. */
  emitRound(): void {
    const { asm, settings } = this.#program;
    if (settings.serial && settings.echo === "poll") asm.call(this.#drain);
    if (settings.serial && settings.ticksPerLine > 0) this.#emitLine();
    const running = new Label("running");
    asm.cmp(dword(REPORT_GPA, HEADER_COMMAND_U32), COMMAND_SHUTDOWN);
    asm.jcc("ne", running);
    this.#emitShutdown();
    asm.bind(running);
  }

  #emitLine(): void {
    const { asm, settings } = this.#program;
    const notYet = new Label("notYet");
    const incremented = new Label("incremented");
    const lineTicks = this.#program.field64(CPU_LINE_TICKS_U64);
    asm.mov("rax", this.#program.field64(CPU_LAST_TICKS_U64));
    asm.mov("rdx", "rax");
    asm.sub("rdx", lineTicks);
    asm.cmp("rdx", settings.ticksPerLine);
    asm.jcc("b", notYet);
    asm.mov(lineTicks, "rax");
    // The echo of the interrupt handler must not come between the line's bytes.
    asm.cli();
    asm.mov("esi", this.#line);
    asm.call(this.#sendText);
    asm.sti();
    asm.inc(dword(REPORT_GPA, HEADER_LINES_U32));
    asm.mov("esi", this.#line);
    asm.add("rsi", LAST_DIGIT);
    const next = asm.label("next");
    asm.inc(byte("rsi"));
    asm.cmp(byte("rsi"), 0x39);
    asm.jcc("be", incremented);
    asm.mov(byte("rsi"), 0x30);
    asm.dec("rsi");
    asm.jmp(next);
    asm.bind(incremented);
    asm.bind(notYet);
  }

  #emitShutdown(): void {
    const { asm, settings } = this.#program;
    const { port, value, sizeBytes } = settings.shutdown;
    asm.cli();
    asm.mov(dword(REPORT_GPA, HEADER_PHASE_U32), PHASE_SHUTDOWN);
    asm.mov("eax", value);
    asm.mov("dx", port);
    asm.out("dx", sizeBytes === 1 ? "al" : sizeBytes === 2 ? "ax" : "eax");
    const halted = asm.label("halted");
    asm.hlt();
    asm.jmp(halted);
  }
}

function writePort(asm: Assembler, port: number, value: number): void {
  asm.mov("al", value);
  asm.mov("dx", port);
  asm.out("dx", "al");
}
