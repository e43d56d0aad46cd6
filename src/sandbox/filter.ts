// SPDX-License-Identifier: Apache-2.0
// Which system calls a sandboxed VMM may make. Three answers, and why:
//
//   allowed   what the runtime, the VMM and their successors need. A filter outlives an exec, so that this is for later versions
//             too: all that is harmless for a process with no more rights than its files give it
//   an error  everything else. ENOSYS for calls that nobody thought of: libraries then do without, which a later version can
//             live with, and its guest. EACCES, EPERM for what is refused on purpose: whoever meets that can say so
//   killed    what no VMM ever does: other processes' memory, mounts, namespaces, identities, the kernel itself. Who asks
//             for it is somebody else's code
//
// What a filter cannot see is behind pointers: paths. Those are for Landlock (paths.ts).
import { AT_EMPTY_PATH } from "../../ffi/exec.ts";
import { EACCES, EAFNOSUPPORT, ENOSYS, EPERM } from "../../ffi/libc.ts";
import { MFD_EXEC, MFD_NOEXEC_SEAL } from "../../ffi/memfd.ts";
import { assembleFilter, type SyscallRule, type Verdict } from "../../ffi/seccomp.ts";
import { AF_INET, AF_INET6, AF_NETLINK, AF_UNIX } from "../../ffi/sockaddr.ts";
import { SYS, type SyscallName } from "../../ffi/unistd.ts";

/** linux/sched.h: CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. */
const CLONE_NEW_NAMESPACES =
  0x80 | 0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000;
/** asm-generic/ioctls.h: typing into a terminal, and its Linux console's many functions. */
const TIOCSTI = 0x5412;
const TIOCLINUX = 0x541c;

const refuse = (errno: number): Verdict => ({ errno });

/** Names of calls by what they are about. */
type Groups = Readonly<Record<string, string>>;

/** Calls that are allowed with certain arguments only. */
const CHECKED: readonly SyscallRule[] = [
  // First, because it is KVM_RUN.
  { call: "ioctl", when: [{ argument: 1, equals: TIOCSTI }], verdict: refuse(EPERM) },
  { call: "ioctl", when: [{ argument: 1, equals: TIOCLINUX }], verdict: refuse(EPERM) },
  { call: "ioctl", verdict: "allow" },

  // By fd. A path beside the fd would still be followed: it leads to nothing that Landlock lets be executed.
  { call: "execveat", when: [{ argument: 4, equals: AT_EMPTY_PATH }], verdict: "allow" },
  { call: "execveat", verdict: refuse(EACCES) },
  { call: "execve", verdict: refuse(EACCES) },
  // Whoever could make an executable file in memory would need no other.
  {
    call: "memfd_create",
    when: [
      { argument: 1, hasAll: MFD_NOEXEC_SEAL },
      { argument: 1, hasNone: MFD_EXEC },
    ],
    verdict: "allow",
  },
  { call: "memfd_create", verdict: refuse(EPERM) },

  { call: "clone", when: [{ argument: 0, hasNone: CLONE_NEW_NAMESPACES }], verdict: "allow" },
  { call: "clone", verdict: "kill" },
  // Its flags are behind a pointer; libc then uses clone.
  { call: "clone3", verdict: refuse(ENOSYS) },

  ...[AF_UNIX, AF_INET, AF_INET6, AF_NETLINK].map(
    (family): SyscallRule => ({ call: "socket", when: [{ argument: 0, equals: family }], verdict: "allow" }),
  ),
  { call: "socket", verdict: refuse(EAFNOSUPPORT) },
];

const ALLOWED: Groups = {
  files: `
    read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek open openat close close_range
    dup dup2 dup3 fcntl flock fsync fdatasync sync_file_range truncate ftruncate fallocate fadvise64 readahead
    sendfile splice tee vmsplice copy_file_range stat fstat lstat newfstatat statx statfs fstatfs access faccessat
    faccessat2 readlink readlinkat getdents64 getcwd chdir fchdir rename renameat renameat2 link linkat unlink
    unlinkat symlink symlinkat mkdir mkdirat rmdir mknod mknodat umask chmod fchmod fchmodat fchmodat2 utimensat
    futimesat utime utimes fgetxattr getxattr lgetxattr flistxattr listxattr llistxattr pipe pipe2 eventfd
    eventfd2 inotify_init1 inotify_add_watch inotify_rm_watch
  `,
  waiting: `
    poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2
    timerfd_create timerfd_settime timerfd_gettime signalfd signalfd4 nanosleep clock_nanosleep clock_gettime
    clock_getres gettimeofday time times getitimer setitimer alarm timer_create timer_settime timer_gettime
    timer_getoverrun timer_delete pause
  `,
  memory: `
    mmap munmap mprotect mremap madvise msync mincore brk mlock mlock2 munlock mlockall munlockall membarrier
    pkey_alloc pkey_free pkey_mprotect get_mempolicy set_mempolicy mbind process_madvise userfaultfd
    map_shadow_stack mseal cachestat
  `,
  sockets: `
    socketpair connect accept accept4 bind listen shutdown getsockname getpeername getsockopt setsockopt sendto
    recvfrom sendmsg recvmsg sendmmsg recvmmsg
  `,
  "threads and processes": `
    fork vfork wait4 waitid exit exit_group futex futex_wake futex_wait futex_requeue futex_waitv set_robust_list
    get_robust_list set_tid_address rseq arch_prctl gettid getpid getppid getpgid getpgrp getsid setpgid setsid
    getuid geteuid getgid getegid getresuid getresgid getgroups capget prctl seccomp landlock_create_ruleset
    landlock_add_rule landlock_restrict_self kill tkill tgkill rt_sigaction rt_sigprocmask rt_sigreturn
    rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_tgsigqueueinfo rt_sigsuspend sigaltstack restart_syscall
    pidfd_open pidfd_send_signal sched_yield sched_getaffinity sched_setaffinity sched_getscheduler
    sched_setscheduler sched_getparam sched_setparam sched_getattr sched_setattr sched_get_priority_max
    sched_get_priority_min sched_rr_get_interval getpriority setpriority getcpu getrusage getrlimit setrlimit
    prlimit64 sysinfo uname getrandom
  `,
};

const KILLED: Groups = {
  "other processes": `
    ptrace process_vm_readv process_vm_writev pidfd_getfd kcmp
  `,
  "mounts and namespaces": `
    mount umount2 pivot_root chroot move_mount open_tree open_tree_attr fsopen fsconfig fsmount fspick
    mount_setattr statmount listmount unshare setns name_to_handle_at open_by_handle_at fanotify_init quotactl
    quotactl_fd acct swapon swapoff
  `,
  identities: `
    setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups capset keyctl add_key
    request_key
  `,
  "the kernel and the machine": `
    kexec_load kexec_file_load init_module finit_module delete_module bpf perf_event_open reboot iopl ioperm
    modify_ldt syslog vhangup settimeofday clock_settime adjtimex clock_adjtime sethostname setdomainname
  `,
};

function rules(groups: Groups, verdict: Verdict): SyscallRule[] {
  const names = Object.values(groups).flatMap((text) => text.trim().split(/\s+/));
  return names.map((call) => {
    if (!Object.hasOwn(SYS, call)) throw new Error(`There is no system call ${call}`);
    return { call: call as SyscallName, verdict };
  });
}

/** The filter of a sandboxed VMM, for `installFilter`. */
export function sandboxFilter(): Uint8Array {
  return assembleFilter([...CHECKED, ...rules(ALLOWED, "allow"), ...rules(KILLED, "kill")], refuse(ENOSYS));
}
