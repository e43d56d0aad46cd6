// SPDX-License-Identifier: Apache-2.0
// Commands that hand file descriptors to the VM.
import { close } from "../../../ffi/fd.ts";
import { QmpError } from "../errors.ts";
import type { Handlers } from "./handler.ts";

export const fdCommands: Handlers<"getfd" | "closefd"> = {
  getfd({ target, session }, { fdname }) {
    const fd = session.takeFd();
    if (fd === undefined) throw new QmpError("No file descriptor supplied via SCM_RIGHTS");
    if (/^\d/.test(fdname)) {
      close(fd);
      // `fd:7` in an address is a number, not a name.
      throw new QmpError("Parameter 'fdname' expects a name not starting with a digit");
    }
    target.fds.set(fdname, fd);
  },

  closefd({ target }, { fdname }) {
    if (!target.fds.close(fdname)) throw new QmpError(`File descriptor named '${fdname}' not found`);
  },
};
