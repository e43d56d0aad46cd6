// SPDX-License-Identifier: Apache-2.0
// Programs as Debian ships them, which check what they have computed: coreutils and Python.
import { createHash } from "node:crypto";
import { assert, describe } from "../harness.ts";
import { buildUserland, linuxMissing, userlandMissing } from "./assets.ts";
import { LinuxGuest } from "./guest.ts";

const test = describe("Debian's user land");

const LINES = 3000;
const STEPS = 20_000;

/** What Python is to print: doubles are the same everywhere. */
function orbit(): string {
  let [x, y] = [0.1, 0.2];
  for (let step = 0; step < STEPS; step++) [x, y] = [1 - 1.4 * x * x + y, 0.3 * x];
  const bytes = new DataView(new ArrayBuffer(16));
  bytes.setFloat64(0, x, true);
  bytes.setFloat64(8, Math.sqrt(Math.abs(y)) / 3, true);
  return Buffer.from(bytes.buffer).toString("hex");
}

function power(): string {
  let [result, base, exponent] = [1n, 3n, 5000n];
  const modulus = 2n ** 521n - 1n;
  for (; exponent > 0n; exponent >>= 1n) {
    if (exponent & 1n) result = (result * base) % modulus;
    base = (base * base) % modulus;
  }
  return result.toString(16);
}

const PYTHON = `
import hashlib, math, re, struct
x, y = 0.1, 0.2
for step in range(${STEPS}):
    x, y = 1 - 1.4 * x * x + y, 0.3 * x
print('orbit', struct.pack('<dd', x, math.sqrt(abs(y)) / 3).hex())
print('power', '%x' % pow(3, 5000, 2 ** 521 - 1))
words = {}
for word in re.findall('[a-z]+', 'the quick brown fox jumps over the lazy dog ' * 200):
    words[word] = words.get(word, 0) + 1
print('words', sorted(words.items())[-1])
print('hash', hashlib.sha256(b''.join(struct.pack('<I', n * n & 0xffffffff) for n in range(5000))).hexdigest())
`;

function squares(): string {
  const bytes = new DataView(new ArrayBuffer(20_000));
  for (let n = 0; n < 5000; n++) bytes.setUint32(n * 4, n * n, true);
  return createHash("sha256").update(new Uint8Array(bytes.buffer)).digest("hex");
}

const INIT = `#!/bin/busybox sh
/bin/busybox mount -t proc none /proc
/bin/busybox mount -t devtmpfs none /dev
export PATH=/usr/bin:/bin
# Not busybox's own, which its shell prefers.
cd /usr/bin
echo "lines $(./seq ${LINES} | ./sort -R | ./sort -n | ./tac | ./sha256sum)"
python=$(echo /usr/bin/python3.*)
cat > /tmp/job.py << 'END'
${PYTHON}
END
$python /tmp/job.py
echo "status $?"
/bin/busybox poweroff -f
`;

test.skipIf(linuxMissing("6.1") ?? userlandMissing(), "coreutils and Python compute what is right", async () => {
  using guest = await LinuxGuest.start({
    series: "6.1",
    memory: "512M",
    initrd: buildUserland(INIT),
    append: "quiet",
  });
  const [output] = await guest.waitFor(/(.|[\r\n])*status \d+\r\n/);
  const found = new Map([...output.matchAll(/^(\w+) (.*)\r$/gm)].map(([, name, value]) => [name, value]));
  const lines = Array.from({ length: LINES }, (_, index) => `${LINES - index}\n`).join("");
  assert.is(found.get("lines"), `${createHash("sha256").update(lines).digest("hex")}  -`);
  assert.is(found.get("orbit"), orbit());
  assert.is(found.get("power"), power());
  assert.is(found.get("words"), "('the', 400)");
  assert.is(found.get("hash"), squares());
  assert.is(found.get("status"), "0");
  assert.is(await guest.waitForEnd(), 0);
});

test.run();
