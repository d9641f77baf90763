"""Run inside a container, as an attacker would: tries what must not work, and prints what did."""

# ruff: noqa: E501, SIM102, SIM115
# mypy: ignore-errors

import ctypes
import glob
import json
import os
import socket
import stat
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
ROOT = os.getuid() == 0
worked = []


def refused(name, action):
    """Note what should have been refused."""
    try:
        result = action()
    except (OSError, ValueError):
        return
    if result is not False:
        worked.append(f"{name}: {result!r:.100}")


def check(result):
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def call(name, *args):
    return lambda: check(getattr(LIBC, name)(*args))


def write(path, text="1"):
    def action():
        with open(path, "w") as file:
            file.write(text)

    return action


def read(path):
    def action():
        with open(path, "rb") as file:
            return file.read(64) or False

    return action


status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
DANGEROUS = {  # capability(7); the numbers of linux/capability.h
    "dac_read_search": 2, "linux_immutable": 9, "net_admin": 12, "ipc_lock": 14, "sys_module": 16, "sys_rawio": 17,
    "sys_ptrace": 19, "sys_admin": 21, "sys_boot": 22, "sys_nice": 23, "sys_resource": 24, "sys_time": 25,
    "mac_override": 32, "mac_admin": 33, "syslog": 34, "bpf": 39, "checkpoint_restore": 40,
}  # fmt: skip
for field in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
    bits = int(status[field], 16)
    for name, number in DANGEROUS.items():
        if bits >> number & 1:
            worked.append(f"{field} has {name}")
    if not ROOT and bits:
        worked.append(f"{field} is {bits:x}")
if status["NoNewPrivs"] != "1" or status["Seccomp"] != "2":
    worked.append("no_new_privileges or seccomp is off")
if os.getpid() != 1 and os.getppid() != 1 and os.path.exists("/proc/2/exe") and len(os.listdir("/proc")) > 100:
    worked.append("the machine's processes are seen")

# system calls
for flags, name in (
    (0x10000000, "user"),
    (0x20000, "mount"),
    (0x20000000, "pid"),
    (0x40000000, "net"),
    (0x2000000, "cgroup"),
):
    refused(f"unshare {name}", call("unshare", flags))
refused("mount tmpfs", call("mount", b"x", b"/tmp", b"tmpfs", 0, b""))
refused("remount /", call("mount", b"", b"/", b"", 32, b""))
refused("bind over /etc", call("mount", b"/tmp", b"/etc", b"", 4096, b""))
refused("umount /proc", call("umount2", b"/proc", 2))
refused("pivot_root", call("pivot_root", b"/tmp", b"/tmp"))
refused(
    "reboot", call("syscall", 169, 0xFEE1DEAD, 672274793, 0x89ABCDEF)
)  # restart on Ctrl-Alt-Del: harmless if it worked
refused("init_module", call("syscall", 175, b"", 0, b""))
refused("kexec_load", call("syscall", 246, 0, 0, 0, 0))
refused("bpf", call("syscall", 321, 0, 0, 0))
refused("perf_event_open", call("syscall", 298, 0, 0, 0, 0, 0))
refused("userfaultfd", call("syscall", 323, 0))
refused("open_by_handle_at", call("syscall", 304, 0, b"\0" * 32, 0))
refused("setns of init", lambda: check(LIBC.setns(os.open("/proc/1/ns/mnt", os.O_RDONLY), 0)) or None)
refused("swapon", call("swapon", b"/tmp/x", 0))
refused("settimeofday", call("settimeofday", struct.pack("qq", 0, 0), None))
refused("sethostname", lambda: check(LIBC.sethostname(b"owned", 5)))
refused("syslog", call("klogctl", 3, ctypes.create_string_buffer(100), 100))
refused("quotactl", call("syscall", 179, 0, b"/", 0, 0))
refused("iopl", call("syscall", 172, 3))
for name, number, args in (
    ("add_key", 248, (b"user", b"longshore", b"x", 1, -5)),
    ("request_key", 249, (b"user", b"longshore", None, -5)),
    ("keyctl read", 250, (11, -4, None, 0)),
    ("keyctl link", 250, (8, -4, -3)),
    ("keyctl new session", 250, (1, None)),
    ("kexec_file_load", 320, (-1, -1, 0, b"", 0)),
    ("io_uring_enter", 426, (-1, 0, 0, 0)),
    ("process_madvise", 440, (-1, None, 0, 0, 0)),
    ("mbind", 237, (None, 0, 0, None, 0, 0)),
    ("fanotify_init", 300, (0, 0)),
    ("pidfd_getfd", 438, (-1, 0, 0)),
    ("lookup_dcookie", 212, (0, b"", 0)),
    ("acct", 163, (b"/x",)),
):
    refused(name, call("syscall", number, *args))
refused("io_uring_setup", call("syscall", 425, 1, ctypes.create_string_buffer(200)))

# devices
usual = {"full", "null", "random", "tty", "urandom", "zero"}
for path in [*glob.glob("/dev/*"), *glob.glob("/dev/[!f]*/*")]:
    mode = os.lstat(path).st_mode
    if stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and os.path.basename(path) not in usual and "/pts/" not in path):
        if path not in ("/dev/console", "/dev/ptmx"):
            worked.append(f"a device: {path}")
for kind, name, number in ((stat.S_IFBLK, "disk", (254, 0)), (stat.S_IFBLK, "sda", (8, 0)), (stat.S_IFCHR, "mem", (1, 1)),
                           (stat.S_IFCHR, "kmsg", (1, 11)), (stat.S_IFCHR, "fuse", (10, 229)), (stat.S_IFCHR, "kvm", (10, 232))):  # fmt: skip

    def make(kind=kind, name=name, number=number):
        path = f"/tmp/{name}"
        os.mknod(path, kind | 0o666, os.makedev(*number))
        return os.open(path, os.O_RDONLY)

    refused(f"mknod {name}", make)

# proc and sys
for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/drop_caches", "/proc/sys/kernel/hostname",
             "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity", "/sys/kernel/uevent_helper", "/sys/power/state",
             "/sys/kernel/mm/transparent_hugepage/enabled",
             "/proc/sys/net/ipv4/ip_forward"):  # fmt: skip
    refused(f"write {path}", write(path))
for path in (
    "/proc/kcore",
    "/proc/kmsg",
    "/proc/keys",
    "/proc/timer_list",
    "/proc/interrupts",
    "/proc/sched_debug",
    "/proc/scsi/scsi",
):
    refused(f"read {path}", read(path))
for path in (
    "/sys/firmware",
    "/sys/fs/selinux",
    "/sys/devices/virtual/powercap",
    *glob.glob("/sys/devices/system/cpu/cpu*/thermal_throttle"),
):
    refused(f"list {path}", lambda path=path: os.listdir(path) or False)

# what the machine shares by names of the kernel: shared memory, queues; sockets and pipes among its programs
worked += [f"in {path}: {found}" for path in ("/dev/shm", "/dev/mqueue") if (found := os.listdir(path))]
with open("/proc/sysvipc/shm") as file:
    if len(file.readlines()) > 1:
        worked.append("shared memory of the machine")
for top in ("/opt", "/usr/local", "/run", "/tmp", "/var"):
    for folder, _, names in os.walk(top):
        for name in names:
            mode = os.lstat(f"{folder}/{name}").st_mode
            if stat.S_ISSOCK(mode):
                refused(f"connect {name}", lambda at=f"{folder}/{name}": socket.socket(socket.AF_UNIX).connect(at))

# mounts: none gains anything by a file
with open("/proc/self/mountinfo") as file:
    for line in file:
        place, flags = line.split()[4:6]
        if place == "/" and not {"nosuid", "nodev"} <= set(flags.split(",")):
            worked.append(f"the root is {flags}")

# cgroups: no group can be made, left, or changed; above all no release_agent
for top, _, names in os.walk("/sys/fs/cgroup"):
    for name in names:
        if name in (
            "release_agent",
            "cgroup.procs",
            "notify_on_release",
            "devices.allow",
            "memory.limit_in_bytes",
            "pids.max",
        ):
            refused(f"write {top}/{name}", write(f"{top}/{name}", "0"))
    refused(f"mkdir in {top}", lambda top=top: os.mkdir(f"{top}/escape"))
    if top.count("/") > 6:
        break

# the machine's files
for path in ("/etc/shadow", "/proc/1/root/etc/shadow", "/proc/self/root/etc/shadow", "/proc/1/cwd/../etc/shadow",
             "/proc/self/fd/../root/etc/shadow", "/usr/../etc/shadow", "/etc/gshadow", "/etc/sudoers", "/root/.bashrc",
             "/var/lib/dpkg/status", "/run/systemd/notify", "/etc/ssh/ssh_host_rsa_key"):  # fmt: skip
    refused(f"read {path}", read(path))
for number in os.listdir("/proc/self/fd"):
    try:
        link = os.readlink(f"/proc/self/fd/{number}")
        found = os.fstat(int(number))
    except OSError:
        continue
    if int(number) > 2 and link.startswith("/") and not link.startswith("/proc/"):
        worked.append(f"an open descriptor: {number} {link}")
    if stat.S_ISDIR(found.st_mode) and not link.startswith(f"/proc/{os.getpid()}"):
        worked.append(f"an open directory: {number} {link}")
for pid in filter(str.isdigit, os.listdir("/proc")):  # CVE-2024-21626: a working directory of the machine
    try:
        if os.readlink(f"/proc/{pid}/cwd").startswith("(unreachable)"):
            worked.append(f"a working directory outside: {pid}")
    except OSError:
        pass

# setuid programs
if not ROOT:
    refused("setuid 0", lambda: os.setuid(0))
    refused("setgid 0", lambda: os.setgid(0))
    refused("setgroups", lambda: os.setgroups([0]))

# the network
if not ROOT:  # root has NET_RAW, in a network of its own
    refused("packet socket", lambda: socket.socket(17, socket.SOCK_RAW, 0))
refused("vsock", lambda: socket.socket(40, socket.SOCK_STREAM))
for family in (38, 40):  # AF_ALG, AF_VSOCK
    for upper in (0, 1 << 32, 1 << 63):
        for number in (41, 53):  # socket, socketpair
            refused(f"{number} of {family}", call("syscall", number, ctypes.c_ulong(upper | family), 5, 0, b"\0" * 8))
for family, address in ((socket.AF_INET, ("192.0.2.1", 80)), (socket.AF_INET, ("169.254.169.254", 80))):
    refused(f"connect {address}", lambda family=family, address=address: socket.socket(family).connect(address))
if len(socket.if_nameindex()) > 1:
    worked.append(f"interfaces {socket.if_nameindex()}")
for path in (
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/dbus/system_bus_socket",
    "/run/containerd/containerd.sock",
):
    refused(f"socket {path}", lambda path=path: os.stat(path))
with open("/proc/net/unix") as file:  # abstract sockets of the machine (CVE-2020-15257)
    abstract = [line.split()[-1] for line in file if line.split()[-1].startswith("@")]
if abstract:
    worked.append(f"abstract sockets {abstract}")

json.dump(worked, sys.stdout)
