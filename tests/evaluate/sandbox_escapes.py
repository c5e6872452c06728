"""Attempts to get out of the sandbox: each must be stopped. Run by `sandbox_storm`.

An attempt returns what it got; an error means that it was stopped. `F` holds what there is to be reached outside.
"""

PRELUDE = """
import ctypes, os, resource, signal, socket, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)

def call(name, *arguments):
    number = F["numbers"][name]
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return f"{name} gave {result}"

def stopped():
    try:
        return attempt() or "stopped"
    except (OSError, ImportError, MemoryError, RuntimeError, EOFError, ValueError):
        return "stopped"
"""

NUMBERS = """
ptrace 101 117; process_vm_readv 310 270; tgkill 234 131; tkill 200 130; rt_sigqueueinfo 129 138; pidfd_open 434 434
pidfd_send_signal 424 424; clone 56 220; clone3 435 435; mount 165 40; umount2 166 39; unshare 272 97; setns 308 268
pivot_root 155 41; io_uring_setup 425 425; bpf 321 280; perf_event_open 298 241; keyctl 250 219; add_key 248 217
userfaultfd 323 282; memfd_create 319 279; personality 135 92; landlock_create_ruleset 444 444; init_module 175 105
kexec_load 246 104; reboot 169 142; iopl 172 -; shmget 29 194; msgget 68 186; semget 64 190; mq_open 240 180
inotify_init1 294 26; fanotify_init 300 262; quotactl 179 60; syslog 103 116; swapoff 168 225; acct 163 89
name_to_handle_at 303 264; open_by_handle_at 304 265; openat2 437 437; fsopen 430 430; mount_setattr 442 442
seccomp 317 277; execveat 322 281; vfork 58 -; capset 126 91; kcmp 312 272; sched_setattr 314 274; ioprio_set 251 30
process_madvise 440 440; memfd_secret 447 447; setfsuid 122 151; move_pages 279 239; modify_ldt 154 -; fork 57 -
"""


def numbers(machine):
    column = {"x86_64": 1, "aarch64": 2}[machine]
    rows = [entry.split() for entry in NUMBERS.replace("\n", ";").split(";") if entry.strip()]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


# name: the body of attempt()
ESCAPES = {
    # Files
    "read a file": "return open(F['secret']).read()",
    "read through a descriptor of a path": "return os.listdir(os.open(F['folder'], os.O_RDONLY))",
    "read through a symbolic link": "os.symlink(F['secret'], 'link'); return open('link').read()",
    "read through a hard link": "os.link(F['secret'], 'hard'); return open('hard').read()",
    "read upwards from here": "return open('../' * 20 + F['secret'].lstrip('/')).read()",
    "read after going there": "os.chdir(F['folder']); return open('secret').read()",
    "read by a handle": "return call('name_to_handle_at', -100, F['secret'].encode(), b'\\x80' * 200, b'0' * 8, 0)",
    "open by a handle": "return call('open_by_handle_at', -100, b'\\x08' + b'\\0' * 40, 0)",
    "read with openat2": "return call('openat2', -100, F['secret'].encode(), b'\\0' * 24, 24)",
    "read passwords": "return open('/etc/passwd').read()",
    "read shadow": "return open('/etc/shadow').read()",
    "read the machine's name": "return open('/etc/hostname').read()",
    "list home": "return [n for n in os.listdir(F['home']) if n in F['in_home']]",
    "list the working folder": "return os.listdir(F['cwd'])",
    "list the folder for temporary files": "return [n for n in os.listdir(F['tmp']) if n in F['in_tmp']]",
    "list a folder": "return os.listdir(F['folder'])",
    "import an installed package": "sys.path += F['site']; import pytest; return pytest",
    "import luthier": "import luthier; return luthier",
    "read the parts of a package": "return open(F['package']).read()",
    "write a file": "open(F['folder'] + '/new', 'w').write('x'); return 'written'",
    "append to a file": "open(F['secret'], 'a').write('x'); return 'appended'",
    "empty a file by opening it": "os.open(F['secret'], os.O_WRONLY | os.O_TRUNC); return 'emptied'",
    "truncate a file": "os.truncate(F['secret'], 0); return 'truncated'",
    "make a folder": "os.mkdir(F['folder'] + '/new'); return 'made'",
    "move a file out": "open('own', 'w').write('x'); os.rename('own', F['folder'] + '/new'); return 'moved'",
    "move a file in": "os.rename(F['secret'], 'own'); return 'moved'",
    "remove a file": "os.unlink(F['secret']); return 'removed'",
    "remove a folder": "os.rmdir(F['folder'] + '/empty'); return 'removed'",
    "link to the outside": "os.symlink('/etc', F['folder'] + '/new'); return 'linked'",
    "change rights": "os.chmod(F['secret'], 0o777); return 'changed'",
    "change rights without following": "os.chmod(F['folder'], 0o700); return 'changed'",
    "change the owner": "os.chown(F['secret'], 12345, 12345); return 'changed'",
    "change times": "os.utime(F['secret'], (1, 1)); return 'changed'",
    "set an attribute": "os.setxattr(F['secret'], 'user.x', b'x'); return 'set'",
    "make a device": "os.mknod('disk', 0o60600, os.makedev(8, 0)); return 'made'",
    "make a pipe with a name": "os.mkfifo(F['folder'] + '/new'); return 'made'",
    "make a socket with a name": "socket.socket(socket.AF_UNIX).bind(F['folder'] + '/new'); return 'made'",
    "write shared memory": "open('/dev/shm/luthier-new', 'w').write('x'); return 'written'",
    "write the standard library": "open(os.__file__, 'a').write('#'); return 'written'",
    "add to the standard library": "open(os.path.dirname(os.__file__) + '/new.py', 'w'); return 'written'",
    "write a setting of the kernel": "open('/proc/sys/kernel/hostname', 'w').write('x'); return 'written'",
    "open a disk": "return [os.open('/dev/' + n, 0) for n in os.listdir('/dev') if n[:2] in ('sd', 'vd', 'nv')]",
    "open memory": "return os.open('/dev/mem', os.O_RDONLY)",
    "open the kernel's log": "return os.open('/dev/kmsg', os.O_RDONLY)",
    "open the terminal": "return os.open('/dev/tty', os.O_RDWR)",
    "open the terminals' maker": "return os.open('/dev/ptmx', os.O_RDWR)",
    "watch a folder": "return call('inotify_init1', 0)",
    "watch everything": "return call('fanotify_init', 0, 0)",
    # Environment and open files
    "inherit the environment": "return set(os.environ) & set(F['names'])",
    "read the environment of Luthier": "return open(f'/proc/{F[\"pid\"]}/environ').read()",
    "read the environment of the first process": "return open('/proc/1/environ').read()",
    "read the command line of Luthier": "return open(f'/proc/{F[\"pid\"]}/cmdline').read()",
    "list processes": "return os.listdir('/proc')",
    "look for inherited files": """
    found = []
    for number in range(4, 1024):
        try:
            os.fstat(number)
            found.append(number)
        except OSError:
            pass
    return found""",
    "read standard input": "return sys.stdin.read() or input()",
    "push characters into a terminal": "import fcntl; fcntl.ioctl(0, 0x5412, b'x'); return 'pushed'",
    # Network
    "connect by TCP": "return socket.create_connection(('127.0.0.1', F['tcp']), 1)",
    "connect by TCP of IPv6": "return socket.socket(socket.AF_INET6).connect(('::1', F['tcp'])) or 'connected'",
    "connect by MPTCP": "s = socket.socket(2, 1, 262); s.connect(('127.0.0.1', F['tcp'])); return 'connected'",
    "send by UDP": "return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', F['udp']))",
    "listen": "s = socket.socket(); s.bind(('', 0)); s.listen(); return s",
    "raw packets": "return socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "frames of the wire": "return socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "netlink": "return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "vsock": "return socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)",
    "the kernel's crypto": "return socket.socket(38, socket.SOCK_SEQPACKET)",
    "a socket with a path": "s = socket.socket(socket.AF_UNIX); s.connect(F['path']); return 'connected'",
    "an abstract socket": "s = socket.socket(socket.AF_UNIX); s.connect(F['abstract']); return 'connected'",
    "a pair that sends elsewhere": """
    ours, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return ours.sendto(b'x', F['datagrams'])""",
    "a stream pair that sends elsewhere": "a, b = socket.socketpair(); return a.sendto(b'x', F['datagrams'])",
    "a web page": "import urllib.request; return urllib.request.urlopen(f'http://127.0.0.1:{F[\"tcp\"]}', timeout=1)",
    "a name": "return socket.gethostbyname('example.com')",
    # Processes
    "signal Luthier": "os.kill(F['pid'], 0); return 'reached'",
    "signal the parent": "parent = os.getppid(); os.kill(parent or 999999, 0); return parent",
    "signal everybody": "os.kill(-1, 0); return 'reached'",
    "signal a group": "os.killpg(F['group'], 0); return 'reached'",
    "signal process 1": "return os.getpid() != 1 and (os.kill(1, 0) or 'reached')",
    "signal a thread of Luthier": "return call('tgkill', F['pid'], F['pid'], 0)",
    "signal a thread": "return call('tkill', F['pid'], 0)",
    "queue a signal": "return call('rt_sigqueueinfo', F['pid'], 0, b'\\0' * 128)",
    "signal by a descriptor": "return call('pidfd_send_signal', os.pidfd_open(F['pid']), 0, None, 0)",
    "open a process": "return call('pidfd_open', F['pid'], 0)",
    "signal by owning a file": """
    import fcntl
    ours, theirs = socket.socketpair()
    fcntl.fcntl(ours, 10, signal.SIGURG)
    fcntl.fcntl(ours, fcntl.F_SETOWN, F['pid'])
    fcntl.fcntl(ours, fcntl.F_SETFL, os.O_ASYNC)
    theirs.send(b'x')
    return 'owned'""",
    "set a limit of Luthier": "resource.prlimit(F['pid'], resource.RLIMIT_CORE, (0, 0)); return 'set'",
    "set a priority of Luthier": "os.setpriority(os.PRIO_PROCESS, F['pid'], 5); return 'set'",
    "set everybody's priority": "os.setpriority(os.PRIO_USER, 0, 5); return 'set'",
    "set the cores of Luthier": "os.sched_setaffinity(F['pid'], {0}); return 'set'",
    "set the disk's priority": "return call('ioprio_set', 1, F['pid'], 0)",
    "set a scheduler": "return call('sched_setattr', F['pid'], b'\\x30' + b'\\0' * 47, 0)",
    "raise an own limit": "resource.setrlimit(resource.RLIMIT_NPROC, (4096, 4096)); return 'raised'",
    "raise the limit of memory": "resource.setrlimit(resource.RLIMIT_AS, (-1, -1)); return 'raised'",
    "trace Luthier": "return call('ptrace', 16, F['pid'], 0, 0)",
    "seize Luthier": "return call('ptrace', 0x4206, F['pid'], 0, 0)",
    "read memory of Luthier": "return call('process_vm_readv', F['pid'], b'\\0' * 16, 1, b'\\0' * 16, 1, 0)",
    "open memory of Luthier": "return os.open(f'/proc/{F[\"pid\"]}/mem', os.O_RDONLY)",
    "read the map of Luthier": "return open(f'/proc/{F[\"pid\"]}/maps').read()",
    "read files of Luthier": "return os.listdir(f'/proc/{F[\"pid\"]}/fd')",
    "go to the root of Luthier": "return os.listdir(f'/proc/{F[\"pid\"]}/root/')",
    "compare with Luthier": "return call('kcmp', F['pid'], F['pid'], 0, 0, 0)",
    "move memory of Luthier": "return call('move_pages', F['pid'], 0, None, None, None, 0)",
    "drop memory of Luthier": "return call('process_madvise', 0, None, 0, 0, 0)",
    "fork": "return 'forked' if os.fork() else os._exit(0)",
    "fork without Python": "return libc.fork() > 0 and 'forked'",
    "vfork by number": "return call('vfork') if 'vfork' in F['numbers'] else ''",
    "fork by number": "return call('fork') if 'fork' in F['numbers'] else ''",
    "clone": "return call('clone', 17, 0, 0, 0, 0)",
    "clone into a namespace": "return call('clone', 0x10000000 | 17, 0, 0, 0, 0)",
    "clone3": "return call('clone3', b'\\0' * 88, 88)",
    "a terminal's fork": "import pty; return pty.fork()",
    "a daemon": "return 'forked' if libc.daemon(0, 0) == 0 else ''",
    "run a shell": "os.execv('/bin/sh', ['sh', '-c', 'true'])",
    "run the interpreter": "os.execv(sys.executable, [sys.executable, '-c', 'pass'])",
    "run a program of its own": "return call('execveat', 0, b'', None, None, 0x1000)",
    "run a command": "import subprocess; return subprocess.run(['true'])",
    "run through a shell": "return '' if os.system('true') else 'ran'",
    "spawn": "return os.posix_spawn('/bin/true', ['true'], {})",
    "a pool of processes": "import multiprocessing; return multiprocessing.Process(target=print).start() or 'started'",
    "many threads": """
    threading.stack_size(1 << 16)
    done = threading.Event()
    try:
        for _ in range(F['many']):
            threading.Thread(target=done.wait, daemon=True).start()
    finally:
        done.set()
    return 'all started'""",
    "many files open": "return len([os.open('/dev/null', 0) for _ in range(1000)])",
    "much memory": "return len(bytearray(2 << 30))",
    "much memory mapped": "import mmap; return len(mmap.mmap(-1, 2 << 30))",
    "locked memory": "return libc.mlockall(3) == 0 and 'locked'",
    "a large file": "os.truncate(os.open('large', os.O_RDWR | os.O_CREAT), 64 << 20); return 'made'",
    "memory as a file": "return call('memfd_create', b'x', 0)",
    "secret memory": "return call('memfd_secret', 0)",
    # The kernel
    "become root": "os.setuid(0); return 'root'",
    "become root for a moment": "os.seteuid(0); return 'root'",
    "become another": "os.setresuid(1, 1, 1); return 'daemon'",
    "become a group": "os.setgid(0); return 'root'",
    "join groups": "os.setgroups([0]); return 'joined'",
    "take capabilities": "return call('capset', (0x20080522).to_bytes(4, 'little') + b'\\0' * 4, b'\\xff' * 24)",
    "mount": "return call('mount', b'tmpfs', b'.', b'tmpfs', 0, None)",
    "mount anew": "return call('mount', None, b'/', None, 32, None)",
    "mount the new way": "return call('fsopen', b'tmpfs', 0)",
    "loosen a mount": "return call('mount_setattr', -100, b'/', 0, b'\\0' * 32, 32)",
    "unmount": "return call('umount2', b'/', 2)",
    "new user namespace": "return call('unshare', 0x10000000)",
    "new mount namespace": "return call('unshare', 0x20000)",
    "join a namespace": "return call('setns', 0, 0)",
    "chroot": "os.chroot('.'); return 'rooted'",
    "pivot": "return call('pivot_root', b'.', b'.')",
    "io_uring": "return call('io_uring_setup', 8, b'\\0' * 120)",
    "bpf": "return call('bpf', 0, b'\\0' * 64, 64)",
    "perf": "return call('perf_event_open', b'\\0' * 128, 0, -1, -1, 0)",
    "keys": "return call('keyctl', 0, -3, 0, 0, 0)",
    "add a key": "return call('add_key', b'user', b'x', b'x', 1, -3)",
    "userfaultfd": "return call('userfaultfd', 0)",
    "personality": "return call('personality', 0x0040000)",
    "another filter": "return call('seccomp', 1, 0, None)",
    "another ruleset": "return call('landlock_create_ruleset', None, 0, 1)",
    "dumpable": "return libc.prctl(4, 1, 0, 0, 0) == 0 and 'set'",
    "outlive the server": "return libc.prctl(1, 0, 0, 0, 0) == 0 and 'set'",
    "adopt orphans": "return libc.prctl(36, 1, 0, 0, 0) == 0 and 'set'",
    "load a module": "return call('init_module', b'', 0, b'')",
    "another kernel": "return call('kexec_load', 0, 0, None, 0)",
    "reboot": "return call('reboot', 0xfee1dead - (1 << 32), 672274793, 0, None)",
    "ports of the machine": "return call('iopl', 3) if 'iopl' in F['numbers'] else ''",
    "segments": "return call('modify_ldt', 0, None, 0) if 'modify_ldt' in F['numbers'] else ''",
    "name the machine": "socket.sethostname('x'); return 'named'",
    "set the clock": "time.clock_settime(time.CLOCK_REALTIME, time.time()); return 'set'",
    "shared memory": "return call('shmget', 4711, 4096, 0o1777)",
    "message queue": "return call('msgget', 4711, 0o1777)",
    "semaphores": "return call('semget', 4711, 1, 0o1777)",
    "message queue with a name": "return call('mq_open', b'luthier', 66, 0o600, None)",
    "quotas": "return call('quotactl', 0x800001 << 8, None, 0, None)",
    "the kernel's messages": "return call('syslog', 3, b'0' * 4096, 4096)",
    "swap": "return call('swapoff', b'/none')",
    "accounting": "return call('acct', None)",
    "set the user for files": "call('setfsuid', 0); return open('/etc/shadow').read()",
}
