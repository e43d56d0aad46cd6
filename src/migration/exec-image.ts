// SPDX-License-Identifier: Apache-2.0
// The program of an update as an operator passes it: an fd by `getfd`, and the hash that it must have. In a sandbox there is no
// other way.
import { close, duplicate } from "../../ffi/fd.ts";
import { VmmError } from "../errors.ts";
import type { FdTable } from "../machine/fd-table.ts";
import type { MigrationParameters } from "../qmp/schema/migration.ts";
import { hashProgram, refuseUnsealed } from "../sandbox/image.ts";
import { isSandboxed } from "../sandbox/state.ts";

/** What to do about it, where programs cannot be started by path. */
export const HOW_TO_PASS =
  "pass the new program sealed, as baton update does, or by getfd with the parameters cpr-exec-image and cpr-exec-sha256";

export class ExecImage {
  readonly name: string;
  readonly sha256: string;
  /** A sealed file in memory. */
  readonly fd: number;

  /** Undefined when the parameters name none. @throws VmmError "image", "sandbox" */
  static open(fds: FdTable, parameters: MigrationParameters): ExecImage | undefined {
    const { "cpr-exec-image": name, "cpr-exec-sha256": sha256 } = parameters;
    if (name === "" && sha256 !== "") {
      throw new VmmError("image", "cpr-exec-sha256 is the hash of an image: set cpr-exec-image, too");
    }
    if (name === "") {
      if (!isSandboxed()) return undefined;
      throw new VmmError("sandbox", `No program can be executed by path with -sandbox on: ${HOW_TO_PASS}`);
    }
    if (sha256 === "") {
      throw new VmmError("image", `Which program the image '${name}' must be is not said: set cpr-exec-sha256`);
    }
    const fd = fds.get(name);
    if (fd === undefined) {
      throw new VmmError(
        "image",
        `There is no fd named '${name}' (cpr-exec-image): pass it by getfd, before each update anew`,
      );
    }
    refuseUnsealed(fd, name);
    // The name may be given to another fd at any time.
    return new ExecImage(name, sha256.toLowerCase(), duplicate(fd));
  }

  private constructor(name: string, sha256: string, fd: number) {
    this.name = name;
    this.sha256 = sha256;
    this.fd = fd;
  }

  /** @throws VmmError "image" when it has another hash */
  async verify(signal: AbortSignal): Promise<void> {
    const found = await hashProgram(this.fd, signal);
    if (found === this.sha256) return;
    throw new VmmError(
      "image",
      `The image '${this.name}' is another program: its SHA-256 is ${found}, not ${this.sha256}`,
    );
  }

  close(): void {
    close(this.fd);
  }
}
