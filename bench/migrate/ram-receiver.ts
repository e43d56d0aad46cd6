// SPDX-License-Identifier: Apache-2.0
// The other process of the measurements in ram.ts: receives RAM as a migration does, and says when it has it.
import { DIRTY_BITMAP_SIZE_BYTES, SCRATCH_BITMAPS } from "../../assembly/layout.ts";
import { O_RDONLY, open } from "../../ffi/fd.ts";
import { advise } from "../../ffi/mmap.ts";
import { unixAddress } from "../../ffi/sockaddr.ts";
import { connect, socket } from "../../ffi/socket.ts";
import { createMemory, mapRam } from "../../src/memory/ram.ts";
import { RamReceiver } from "../../src/migration/ram/ram-receiver.ts";
import { RamSource } from "../../src/migration/ram/ram-source.ts";

/** As JSON in the first argument. */
export interface Reception {
  path: string;
  sizeBytes: number;
  streams: number;
  isPopulated: boolean;
  /** The sender's RAM, for pages by reference; else empty. */
  ramPath: string;
}

const AF_UNIX = 1;
const WRITTEN = SCRATCH_BITMAPS + DIRTY_BITMAP_SIZE_BYTES;

async function receive({ path, sizeBytes, streams, isPopulated, ramPath }: Reception): Promise<void> {
  const memory = createMemory(sizeBytes);
  const ram = mapRam(memory, { qomType: "memory-backend-memfd", id: "ram0", sizeBytes, share: true });
  if (isPopulated) advise(new Uint8Array(memory.buffer), ram.base, sizeBytes, "populate");
  const fds = Array.from({ length: streams }, () => {
    const fd = socket(AF_UNIX);
    connect(fd, unixAddress(path));
    return fd;
  });
  using source = ramPath === "" ? undefined : RamSource.adopt(open(ramPath, O_RDONLY), ram);
  await using receiver = new RamReceiver({
    memory,
    ramBase: ram.base,
    ramSizeBytes: sizeBytes,
    fds,
    freshBitmap: WRITTEN,
    ...(source === undefined ? {} : { source: source.pages }),
  });
  // The first round is empty: workers start with it.
  await receiver.receiveRound();
  process.stdout.write("ready\n");
  await receiver.receiveRound();
  process.stdout.write("done\n");
}

await receive(JSON.parse(process.argv[2]!) as Reception);
process.exit(0);
