// SPDX-License-Identifier: Apache-2.0
// Paging: SDM volume 3, chapter 4, and what an address may be.
import { dword, Label, qword } from "../../../../src/payload/registers.ts";
import * as p from "./program.ts";

const P = 1n;
const W = 2n;
const U = 4n;
const A = 0x20n;
const D = 0x40n;
const LARGE = 0x80n;
const GLOBAL = 0x100n;
const NX = 1n << 63n;
const PAGE = 0x1000n;
const FIRST = BigInt(p.PAGES);
const SECOND = BigInt(p.PAGES + 0x1000);

export function addPaging(program: p.SystemProgram): void {
  const { asm } = program;

  const read = (): Label => {
    const at = asm.label();
    asm.mov("rax", qword("rdi"));
    return at;
  };
  const write = (): Label => {
    const at = asm.label();
    asm.mov(qword("rdi"), "rax");
    return at;
  };
  /** A read, a write or a fetch at WINDOW, as supervisor or in user mode: the fault that comes of it. */
  const access = (kind: "read" | "write" | "fetch", isUser = false): Label => {
    const user = new Label("user");
    const target = new Label("target");
    asm.mov("rdi", p.WINDOW);
    if (isUser) {
      program.enter(user);
      asm.bind(user);
    }
    if (kind === "read") return read();
    if (kind === "write") return write();
    // JMP RDI
    asm.db(0xff, 0xe7);
    target.address = Number(p.WINDOW);
    return target;
  };
  const faults = (
    title: string,
    entry: bigint,
    kind: "read" | "write" | "fetch",
    errorCode: number,
    isUser = false,
  ): void => {
    program.add(title, () => {
      program.mapPage(0, entry);
      return [p.fault(p.PF, errorCode, access(kind, isUser), isUser ? p.USER_CODE64 : p.CODE64, p.WINDOW)];
    });
  };
  faults("a read of a page that is not present", 0n, "read", 0);
  faults("a write to a page that is not present", 0n, "write", 2);
  faults("a fetch from a page that is not present", 0n, "fetch", 0x10);
  faults("a read in user mode of a page that is not present", 0n, "read", 4, true);
  faults("a write in user mode to a page that is not present", 0n, "write", 6, true);
  faults("a fetch in user mode from a page that is not present", 0n, "fetch", 0x14, true);
  faults("a write to a page that is read-only", FIRST | P, "write", 3);
  faults("a write in user mode to a page that is read-only", FIRST | P | U, "write", 7, true);
  faults("a read in user mode of a supervisor's page", FIRST | P | W, "read", 5, true);
  faults("a fetch in user mode from a supervisor's page", FIRST | P | W, "fetch", 0x15, true);
  faults("a fetch from a page that is not for code", FIRST | P | W | NX, "fetch", 0x11);
  faults("a fetch in user mode from a page that is not for code", FIRST | P | U | NX, "fetch", 0x15, true);
  faults("a read of a page with a reserved bit", FIRST | P | W | (1n << 51n), "read", 9);
  faults("a write to a page with a reserved bit", FIRST | P | W | (1n << 51n), "write", 0xb);
  faults("a read in user mode of a page with a reserved bit", FIRST | P | W | U | (1n << 51n), "read", 0xd, true);

  program.add("without CR0.WP the supervisor writes what is read-only", () => {
    program.mapPage(0, FIRST | P);
    asm.mov("eax", p.CR0 & ~0x1_0000);
    asm.movToControl(0, "rax");
    asm.mov("rax", 0x1234);
    asm.mov("rdi", p.WINDOW);
    write();
    asm.mov("eax", p.CR0);
    asm.movToControl(0, "rax");
    program.logMemory(p.PAGES);
    program.logMemory(p.WINDOW_PT);
    return [0x1234, FIRST | P | A | D];
  });
  program.add("CR0.WP takes effect at once", () => {
    program.mapPage(0, FIRST | P);
    asm.mov("eax", p.CR0 & ~0x1_0000);
    asm.movToControl(0, "rax");
    asm.mov("rdi", p.WINDOW);
    write();
    asm.mov("eax", p.CR0);
    asm.movToControl(0, "rax");
    return [p.fault(p.PF, 3, write(), p.CODE64, p.WINDOW)];
  });
  program.add("without EFER.NXE the bit is reserved", () => {
    program.writeMsr(p.MSR_EFER, BigInt(p.EFER & ~0x800));
    program.mapPage(0, FIRST | P | W | NX);
    const end = new Label("end");
    program.resumeAt(end);
    asm.mov("rdi", p.WINDOW);
    const at = read();
    asm.bind(end);
    program.writeMsr(p.MSR_EFER, BigInt(p.EFER));
    return [p.fault(p.PF, 9, at, p.CODE64, p.WINDOW)];
  });
  program.add("without EFER.NXE the error code of a fetch is that of a read", () => {
    program.writeMsr(p.MSR_EFER, BigInt(p.EFER & ~0x800));
    program.mapPage(0, 0n);
    const end = new Label("end");
    program.resumeAt(end);
    access("fetch");
    asm.bind(end);
    program.writeMsr(p.MSR_EFER, BigInt(p.EFER));
    return [p.fault(p.PF, 0, p.WINDOW, p.CODE64, p.WINDOW)];
  });

  program.add("accessed and dirty flags", () => {
    program.setEntry(p.WINDOW_PML4E, BigInt(p.WINDOW_PDPT) | 7n);
    program.setEntry(p.WINDOW_PDPT, BigInt(p.WINDOW_PD) | 7n);
    program.setEntry(p.WINDOW_PD, BigInt(p.WINDOW_PT) | 7n);
    program.mapPage(0, FIRST | P | W);
    asm.mov("rdi", p.WINDOW);
    read();
    for (const where of [p.WINDOW_PML4E, p.WINDOW_PDPT, p.WINDOW_PD, p.WINDOW_PT]) program.logMemory(where);
    asm.mov("rdi", p.WINDOW);
    write();
    for (const where of [p.WINDOW_PML4E, p.WINDOW_PDPT, p.WINDOW_PD, p.WINDOW_PT]) program.logMemory(where);
    const tables = [p.WINDOW_PDPT, p.WINDOW_PD, p.WINDOW_PT].map((table) => BigInt(table) | 7n | A);
    return [...tables, FIRST | P | W | A, ...tables, FIRST | P | W | A | D];
  });
  program.add("a fault leaves the dirty flag alone", () => {
    program.mapPage(0, FIRST | P);
    const end = new Label("end");
    program.resumeAt(end);
    const at = access("write");
    asm.bind(end);
    asm.mov("rax", qword(p.WINDOW_PT));
    // Whether such a page is marked as accessed is the CPU's choice.
    asm.and("rax", ~0x20);
    program.logRax();
    return [p.fault(p.PF, 3, at, p.CODE64, p.WINDOW), FIRST | P];
  });
  program.add("a large page", () => {
    program.setEntry(p.WINDOW_PD + 8, 0x40_0000n | P | W | LARGE);
    asm.mov(dword(p.PAGES), 0x5678);
    asm.mov("rdi", p.WINDOW + 0x20_0000n + 0x10_0000n);
    asm.mov("rax", 0);
    asm.mov("eax", dword("rdi"));
    program.logRax();
    program.logMemory(p.WINDOW_PD + 8);
    return [0x5678, 0x40_0000n | P | W | LARGE | A];
  });
  program.add("a large page has reserved bits", () => {
    program.setEntry(p.WINDOW_PD + 8, 0x40_2000n | P | W | LARGE);
    asm.mov("rdi", p.WINDOW + 0x20_0000n);
    return [p.fault(p.PF, 9, read(), p.CODE64, p.WINDOW + 0x20_0000n)];
  });
  program.add("rights are those of all levels together", () => {
    program.setEntry(p.WINDOW_PD, BigInt(p.WINDOW_PT) | P | U);
    program.mapPage(0, FIRST | P | W | U);
    const end = new Label("end");
    program.resumeAt(end);
    const at = access("write");
    asm.bind(end);
    program.setEntry(p.WINDOW_PD, BigInt(p.WINDOW_PT) | 7n);
    return [p.fault(p.PF, 3, at, p.CODE64, p.WINDOW)];
  });
  program.add("a bit that forbids code holds for all below", () => {
    program.setEntry(p.WINDOW_PDPT, BigInt(p.WINDOW_PD) | 7n | NX);
    program.mapPage(0, FIRST | P | W | U);
    const end = new Label("end");
    program.resumeAt(end);
    access("fetch");
    asm.bind(end);
    program.setEntry(p.WINDOW_PDPT, BigInt(p.WINDOW_PD) | 7n);
    return [p.fault(p.PF, 0x11, p.WINDOW, p.CODE64, p.WINDOW)];
  });

  const mark = (): void => {
    asm.mov(dword(p.PAGES), 1);
    asm.mov(dword(p.PAGES + 0x1000), 2);
    asm.mov("rdi", p.WINDOW);
  };
  const logWindow = (): void => {
    asm.mov("eax", dword("rdi"));
    program.logRax();
  };
  program.add("INVLPG forgets a page", () => {
    mark();
    program.mapPage(0, FIRST | P | W);
    logWindow();
    asm.mov("rax", SECOND | P | W);
    asm.mov(qword(p.WINDOW_PT), "rax");
    // INVLPG [RDI]
    asm.db(0x0f, 0x01, 0x3f);
    logWindow();
    return [1, 2];
  });
  program.add("INVLPG forgets a global page, too", () => {
    mark();
    program.mapPage(0, FIRST | P | W | GLOBAL);
    logWindow();
    program.mapPage(0, SECOND | P | W | GLOBAL);
    asm.db(0x0f, 0x01, 0x3f);
    logWindow();
    asm.mov("rax", 0);
    asm.mov(qword(p.WINDOW_PT), "rax");
    asm.db(0x0f, 0x01, 0x3f);
    return [1, 2];
  });
  program.add("a change of CR4.PGE forgets global pages", () => {
    mark();
    program.mapPage(0, FIRST | P | W | GLOBAL);
    logWindow();
    asm.mov("rax", SECOND | P | W);
    asm.mov(qword(p.WINDOW_PT), "rax");
    asm.mov("eax", p.CR4 & ~0x80);
    asm.movToControl(4, "rax");
    logWindow();
    asm.mov("eax", p.CR4);
    asm.movToControl(4, "rax");
    logWindow();
    return [1, 2, 2];
  });
  program.add("code at an address is what is mapped there now", () => {
    // MOV EAX, imm32; RET
    for (const [page, value] of [p.PAGES, p.PAGES + 0x1000].entries()) {
      asm.mov(dword(value), 0x0000_00b8 | ((page + 7) << 8));
      asm.mov(dword(value + 4), 0xc300);
    }
    for (const entry of [FIRST, SECOND, FIRST]) {
      program.mapPage(0, entry | P | W);
      asm.mov("rdi", p.WINDOW);
      // CALL RDI
      asm.db(0xff, 0xd7);
      program.logRax();
    }
    return [7, 8, 7];
  });

  program.add("a read over two pages whose second one is not there", () => {
    program.mapPage(0, FIRST | P | W);
    program.mapPage(1, 0n);
    asm.mov("rdi", p.WINDOW + 0xffcn);
    return [p.fault(p.PF, 0, read(), p.CODE64, p.WINDOW + PAGE)];
  });
  program.add(
    "a write over two pages whose second one is read-only leaves the first one alone",
    () => {
      asm.mov(dword(p.PAGES + 0xffc), 0x77);
      program.mapPage(0, FIRST | P | W);
      program.mapPage(1, SECOND | P);
      const end = new Label("end");
      program.resumeAt(end);
      asm.mov("rdi", p.WINDOW + 0xffcn);
      const at = write();
      asm.bind(end);
      asm.mov("rax", 0);
      asm.mov("eax", dword(p.PAGES + 0xffc));
      program.logRax();
      return [p.fault(p.PF, 3, at, p.CODE64, p.WINDOW + PAGE), 0x77];
    },
    "a KVM that interprets writes the first page before it looks at the second",
  );
  program.add("an instruction over two pages whose second one is not there", () => {
    // MOV EAX, imm32: three bytes of it.
    asm.mov(dword(p.PAGES + 0xffc), 0x0000_b890);
    program.mapPage(0, FIRST | P | W);
    program.mapPage(1, 0n);
    asm.mov("rdi", p.WINDOW + 0xffdn);
    asm.db(0xff, 0xe7);
    return [p.fault(p.PF, 0x10, p.WINDOW + 0xffdn, p.CODE64, p.WINDOW + PAGE)];
  });
  program.add("a string instruction with a fault in the middle", () => {
    program.mapPage(0, FIRST | P | W);
    program.mapPage(1, 0n);
    const end = new Label("end");
    program.resumeAt(end);
    asm.mov("rsi", p.PAGES + 0x2000);
    asm.mov("rdi", p.WINDOW + 0xff0n);
    asm.mov("rcx", 0x100);
    const at = asm.label();
    asm.repMovsb();
    asm.bind(end);
    for (const register of ["rcx", "rsi", "rdi"] as const) {
      asm.mov("rax", register);
      program.logRax();
    }
    return [p.fault(p.PF, 2, at, p.CODE64, p.WINDOW + PAGE), 0xf0, p.PAGES + 0x2010, p.WINDOW + PAGE];
  });
  program.add("a string instruction backwards into a page that is not there", () => {
    program.mapPage(0, 0n);
    program.mapPage(1, FIRST | P | W);
    const end = new Label("end");
    program.resumeAt(end);
    asm.mov("rdi", p.WINDOW + PAGE + 8n);
    asm.mov("rcx", 5);
    asm.db(0xfd);
    const at = asm.label();
    // REP STOSQ
    asm.db(0xf3, 0x48, 0xab);
    asm.bind(end);
    asm.cld();
    asm.mov("rax", "rcx");
    program.logRax();
    asm.mov("rax", "rdi");
    program.logRax();
    return [p.fault(p.PF, 2, at, p.CODE64, p.WINDOW + 0xff8n), 3, p.WINDOW + 0xff8n];
  });

  const HOLE = 0x8000_0000_0000n;
  program.add("an address that is none is #GP", () => {
    asm.mov("rdi", HOLE);
    return [p.fault(p.GP, 0, read())];
  });
  program.add("on the stack it is #SS", () => {
    asm.mov("rbp", HOLE);
    const at = asm.label();
    // MOV RAX, [RBP]
    asm.db(0x48, 0x8b, 0x45, 0x00);
    return [p.fault(p.SS, 0, at)];
  });
  program.add("a jump to what is no address is #GP of the jump", () => {
    asm.mov("rdi", HOLE);
    const at = asm.label();
    asm.db(0xff, 0xe7);
    return [p.fault(p.GP, 0, at)];
  });
  program.add("a PUSH into a page that is not there leaves RSP alone", () => {
    program.mapPage(0, 0n);
    program.changeGate(p.PF, p.INTERRUPT_GATE, 1);
    const end = new Label("end");
    program.resumeAt(end);
    asm.mov("rsp", p.WINDOW + 0x100n);
    const at = asm.label();
    asm.push("rbx");
    asm.bind(end);
    // The frame: error code, RIP, CS, RFLAGS, RSP.
    program.logMemory(p.IST1 - 16);
    program.changeGate(p.PF, p.INTERRUPT_GATE);
    return [p.fault(p.PF, 2, at, p.CODE64, p.WINDOW + 0xf8n), p.WINDOW + 0x100n];
  });
}
