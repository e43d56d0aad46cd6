// SPDX-License-Identifier: Apache-2.0
import { close, isOpen, pipe } from "../../../ffi/fd.ts";
import { FdTable } from "../../../src/machine/fd-table.ts";
import { withoutLeak } from "../../ffi/support.ts";
import { assert, describe } from "../../harness.ts";

const test = describe("src/machine/fd-table");

test("an fd is taken once, and is the taker's then", () =>
  withoutLeak(() => {
    const table = new FdTable();
    const { readFd, writeFd } = pipe();
    table.set("in", readFd);
    table.set("out", writeFd);
    assert.is(table.take("in"), readFd);
    assert.is(table.take("in"), undefined);
    assert.not(table.close("in"));
    assert.ok(isOpen(readFd));
    assert.ok(table.close("out"));
    assert.not(isOpen(writeFd));
    assert.not(table.close("out"));
    close(readFd);
  }));

test("a second fd of a name takes the place of the first", () =>
  withoutLeak(() => {
    const table = new FdTable();
    const { readFd, writeFd } = pipe();
    table.set("x", readFd);
    table.set("x", writeFd);
    assert.not(isOpen(readFd));
    assert.is(table.take("x"), writeFd);
    close(writeFd);
  }));

test("the end of the table is the end of its fds", () =>
  withoutLeak(() => {
    const table = new FdTable();
    const { readFd, writeFd } = pipe();
    table.set("a", readFd);
    table.set("b", writeFd);
    table.closeAll();
    assert.is(table.take("a"), undefined);
    table.closeAll();
  }));

test.run();
