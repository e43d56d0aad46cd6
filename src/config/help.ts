// SPDX-License-Identifier: Apache-2.0
// The text of `baton --help`, made from the table of options.
import { GROUPS, OPTIONS, type OptionDefinition } from "./options.ts";

const COLUMN = 26;

const VERBS = [
  "  baton demo                a guest whose VMM is replaced again and again, and what it noticed of it",
  "  baton image               a Linux guest to boot: kernel and initramfs, by apt or from this machine",
  "  baton migrate SOCKET URI  move the guest of the VM with this QMP socket to another VMM or into a file",
  "  baton status SOCKET       what that VM is, and in which modes it can be updated and moved",
  "  baton update SOCKET       replace the program under that VM",
  "  baton state show FILE     print a saved state; baton state diff A B compares two",
];

const EXAMPLES = [
  "Example, a VM that can be updated, and its update to a new program:",
  "  baton --kernel vmlinuz --append console=ttyS0 -m 1G --machine aux-ram-share=on --qmp unix:vm.qmp,server=on,wait=off",
  "  baton update vm.qmp --image /opt/baton-new",
];

function describe({ flag, aliases, argument, help }: OptionDefinition): string[] {
  // Long names with two dashes, QEMU's one-letter options with one; either works for both.
  const names = [flag, ...(aliases ?? [])].map((name) => `${name.length === 1 ? "-" : "--"}${name}`).join(", ");
  const head = `  ${names}${argument === undefined ? "" : ` ${argument}`}`;
  const [first, ...rest] = help.map((line) => " ".repeat(COLUMN) + line);
  const isShort = head.length < COLUMN - 1;
  return isShort ? [head + first!.slice(head.length), ...rest] : [head, first!, ...rest];
}

/** The help of the options, without a trailing newline. */
export function helpText(): string {
  const lines = [
    "Usage: baton [OPTION…]",
    "Runs a virtual machine whose VMM can be replaced while the guest runs. QEMU's syntax: -x and --x are the same.",
    "",
    "Verbs (--help after one says more):",
    ...VERBS,
  ];
  for (const [group, title] of Object.entries(GROUPS)) {
    lines.push("", `${title}:`);
    for (const option of OPTIONS) if (option.group === group) lines.push(...describe(option));
  }
  return [...lines, "", ...EXAMPLES].join("\n");
}
