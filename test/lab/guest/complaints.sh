#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# Usage: complaints < MESSAGES
# What of the kernel's messages says that something is wrong.
grep -iE 'soft lockup|hard lockup|rcu.*(stall|self-detected)|clocksource.*unstable|watchdog.*(skew|clocksource)|time jumped|lost interrupt|nobody cared|not responding|hung_task|blocked for more than|BUG:|Oops|WARNING:|general protection|segfault|machine check|hardware error|APIC error'
