"""seccomp: the system calls that a candidate has, as a filter that the kernel runs before each of them.

    architecture is ours? -> number on the list? -> arguments fit? -> allowed
          kill                  EPERM (ENOSYS from 424 on: calls so new that libc has another way)    EPERM

A list of what is allowed, so that a call nobody thought of is refused. `clone` makes threads only: one process per
program, hence no fork bomb and no daemon. Signals go to the program itself only. `clone3` hides its flags behind a
pointer that a filter cannot follow, and gets ENOSYS: on EPERM libc would not fall back, and no thread would start.

Source: seccomp(2), linux/filter.h (classic BPF); numbers: asm/unistd_64.h (x86_64), asm-generic/unistd.h (aarch64).
Not covered: other architectures (the tables have no column for them, and the sandbox then says so).
"""

from __future__ import annotations

import ctypes
import functools
import platform
import struct

from .linux import call

_LOAD, _JUMP_EQUAL, _JUMP_ABOVE, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_ALLOW, _KILL, _EPERM, _ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_FIRST_NEW = 424
_X32 = 0x40000000
_CLONE_THREAD, _CLONE_NAMESPACES = 0x10000, 0x7E020080
_O_TMPFILE_BIT = 0o20000000
_AF_UNIX, _SOCK_STREAM, _SOCK_KIND = 1, 1, 0xF

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""The number that the kernel gives an architecture, and its column in the tables below."""

_PLAIN = """
read 0 63; write 1 64; readv 19 65; writev 20 66; pread64 17 67; pwrite64 18 68; preadv 295 69; pwritev 296 70;
preadv2 327 286; pwritev2 328 287; lseek 8 62; close 3 57; close_range 436 436; dup 32 23; dup2 33 -; dup3 292 24;
pipe 22 -; pipe2 293 59; poll 7 -; ppoll 271 73; select 23 -; pselect6 270 72; epoll_create 213 -; epoll_create1 291 20;
epoll_ctl 233 21; epoll_wait 232 -; epoll_pwait 281 22; eventfd2 290 19; sendfile 40 71; copy_file_range 326 285;
fsync 74 82; fdatasync 75 83; ftruncate 77 46; flock 73 32; fadvise64 221 223; stat 4 -; fstat 5 80; lstat 6 -;
newfstatat 262 79; statx 332 291; statfs 137 43; fstatfs 138 44; access 21 -; faccessat 269 48; faccessat2 439 439;
readlink 89 -; readlinkat 267 78; getdents 78 -; getdents64 217 61; getcwd 79 17; chdir 80 49; fchdir 81 50; creat 85 -;
mkdir 83 -; mkdirat 258 34; rmdir 84 -; unlink 87 -; unlinkat 263 35; rename 82 -; renameat 264 38; renameat2 316 276;
umask 95 166; mmap 9 222; munmap 11 215; mprotect 10 226; mremap 25 216; madvise 28 233; brk 12 214; msync 26 227;
mincore 27 232; membarrier 324 283; exit 60 93; exit_group 231 94; wait4 61 260; waitid 247 95; getpid 39 172;
getppid 110 173; gettid 186 178; getuid 102 174; geteuid 107 175; getgid 104 176; getegid 108 177; getgroups 115 158;
getpgrp 111 -; getpgid 121 155; getsid 124 156; getresuid 118 148; getresgid 120 150; set_tid_address 218 96;
set_robust_list 273 99; rseq 334 293; futex 202 98; futex_waitv 449 449; sched_yield 24 124; sched_getaffinity 204 123;
sched_getparam 143 121; sched_getscheduler 145 120; sched_get_priority_max 146 125; sched_get_priority_min 147 126;
getpriority 140 141; getrlimit 97 163; setrlimit 160 164; getrusage 98 165; times 100 153; time 201 -;
gettimeofday 96 169; clock_gettime 228 113; clock_getres 229 114; nanosleep 35 101; clock_nanosleep 230 115;
timer_create 222 107; timer_settime 223 110; timer_gettime 224 108; timer_getoverrun 225 109; timer_delete 226 111;
timerfd_create 283 85; timerfd_settime 286 86; timerfd_gettime 287 87; setitimer 38 103; getitimer 36 102; alarm 37 -;
pause 34 -; rt_sigaction 13 134; rt_sigprocmask 14 135; rt_sigpending 127 136; rt_sigtimedwait 128 137;
rt_sigsuspend 130 133; rt_sigreturn 15 139; sigaltstack 131 132; signalfd4 289 74; restart_syscall 219 128;
uname 63 160; sysinfo 99 179; getcpu 309 168; getrandom 318 278; arch_prctl 158 -; sendto 44 206; recvfrom 45 207;
sendmsg 46 211; recvmsg 47 212; shutdown 48 210; getsockopt 55 209; setsockopt 54 208; getsockname 51 204;
getpeername 52 205
"""
_IN_OWN_MOUNTS = """
chmod 90 -; fchmod 91 52; fchmodat 268 53; utime 132 -; utimes 235 -; utimensat 280 88; truncate 76 45;
fallocate 285 47; symlink 88 -; symlinkat 266 36; link 86 -; linkat 265 37
"""
"""Where only the candidate's own tmpfs can be written; elsewhere Landlock would let chmod and its kin through."""

_PID_OF_SELF = "kill 62 129; tgkill 234 131; rt_sigqueueinfo 129 138; rt_tgsigqueueinfo 297 240"
_ZERO_OR_SELF = "prlimit64 302 261"
_COMMANDS = {
    "fcntl 72 25": (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030),
    "ioctl 16 29": (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451),
    "prctl 157 167": (15, 16),
}
"""Second argument for the first two: duplicate, flags, locks; sizes and blocking. First for prctl: a thread's name."""
_CLONE = "clone 56 220"
_SOCKETPAIR = "socketpair 53 199"
_OPEN = {"open 2 -": 1, "openat 257 56": 2}
"""Where the flags are."""

_Instruction = tuple[int, int, int, int]


def _numbers(table: str, column: int) -> list[int]:
    fields = [entry.split()[1 + column] for entry in table.split(";")]
    return [int(field) for field in fields if field != "-"]


def _argument(index: int) -> _Instruction:
    return (_LOAD, 0, 0, 16 + 8 * index)


def _when(numbers: list[int], body: list[_Instruction]) -> list[_Instruction]:
    """`body`, for these calls only; it ends in returns. The number of the call is in the accumulator."""
    return [step for number in numbers for step in [(_JUMP_EQUAL, 0, len(body), number), *body]]


def _any_of(values: tuple[int, ...]) -> list[_Instruction]:
    """Allow when the accumulator is one of these, else refuse."""
    last = len(values)
    tests = [(_JUMP_EQUAL, last - place, 0, value) for place, value in enumerate(values)]
    return [*tests, (_RETURN, 0, 0, _EPERM), (_RETURN, 0, 0, _ALLOW)]


def filter_for(machine: str, pid: int, *, own_mounts: bool) -> bytes:
    """The BPF program of a candidate.

    Args:
        machine: A key of `ARCHITECTURES`.
        pid: The candidate's own, as it sees it: the only one it may signal.
        own_mounts: It sees nothing but a read-only root and its tmpfs.
    """
    architecture, column = ARCHITECTURES[machine]
    of_self = _when(_numbers(_PID_OF_SELF, column), [_argument(0), *_any_of((pid,))])
    of_self += _when(_numbers(_ZERO_OR_SELF, column), [_argument(0), *_any_of((0, pid))])
    head: list[_Instruction] = [
        (_LOAD, 0, 0, 4),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),
        (_JUMP_ABOVE, 0, 1, _X32),
        (_RETURN, 0, 0, _KILL),
    ]
    return _packed([*head, *of_self]) + _same_for_all(column, own_mounts)


@functools.cache
def _same_for_all(column: int, own_mounts: bool) -> bytes:
    """What does not depend on the process. Jumps are relative, so it can follow anything."""
    allow = [(_RETURN, 0, 0, _ALLOW)]
    steps = _when(_numbers(_PLAIN, column), allow)
    if own_mounts:
        steps += _when(_numbers(_IN_OWN_MOUNTS, column), allow)
    for name, place in _OPEN.items():
        flags = [_argument(place), (_AND, 0, 0, _O_TMPFILE_BIT), *_any_of((0,))]
        steps += _when(_numbers(name, column), allow if own_mounts else flags)
    for name, commands in _COMMANDS.items():
        steps += _when(_numbers(name, column), [_argument(0 if "prctl" in name else 1), *_any_of(commands)])
    threads = [_argument(0), (_AND, 0, 0, _CLONE_THREAD | _CLONE_NAMESPACES), *_any_of((_CLONE_THREAD,))]
    steps += _when(_numbers(_CLONE, column), threads)
    kind = [_argument(1), (_AND, 0, 0, _SOCK_KIND), *_any_of((_SOCK_STREAM,))]
    pair = [_argument(0), (_JUMP_EQUAL, 1, 0, _AF_UNIX), (_RETURN, 0, 0, _EPERM), *kind]
    steps += _when(_numbers(_SOCKETPAIR, column), pair)
    return _packed([*steps, (_JUMP_ABOVE, 0, 1, _FIRST_NEW), (_RETURN, 0, 0, _ENOSYS), (_RETURN, 0, 0, _EPERM)])


def _packed(steps: list[_Instruction]) -> bytes:
    return b"".join(struct.pack("<HBBI", *step) for step in steps)


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def install(program: bytes) -> None:
    """Hold this thread, and all it starts, to a filter. `no_new_privileges` must come first.

    Raises:
        OSError: The kernel refuses, or has no seccomp.
    """
    filter_ = _Filter(len(program) // 8, program)
    call("prctl", _PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(filter_), 0, 0)


def supported() -> bool:
    """Whether the tables know this machine."""
    return platform.machine() in ARCHITECTURES
