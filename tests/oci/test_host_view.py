"""The `host` root, on real containers: what is seen in it, and what must not be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from longshore.engine.engine import Engine
from longshore.errors import InvalidSpec
from longshore.spec import Mount, Security

pytestmark = pytest.mark.real

# What an attacker would do first: walk all there is, and read whatever can be read.
WALK = r"""
import os, sys
own = ("/proc", "/sys", "/dev")
for folder, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in own]
    for name in files + [name for name in folders if os.path.islink(os.path.join(folder, name))]:
        path = os.path.join(folder, name)
        sys.stdout.buffer.write(os.fsencode(path) + b"\0")
"""

SECRET_NAMES = {
    "shadow",
    "shadow-",
    "gshadow",
    "gshadow-",
    "sudoers",
    "authorized_keys",
    "known_hosts",
    ".bash_history",
    ".netrc",
    ".git-credentials",
    ".pypirc",
    "krb5.keytab",
    "machine-id",
    "config.json",  # of a bundle
}
EMPTY = ("/root", "/home", "/srv", "/mnt", "/media", "/boot", "/var", "/tmp", "/run")


async def walk(engine: Engine, **fields: object) -> set[str]:
    done = await engine.run("host", ["python3", "-S", "-c", WALK], **fields)  # type: ignore[arg-type]
    assert done.exit_code == 0, done.stderr
    return {os.fsdecode(path) for path in done.stdout.split(b"\0") if path}


@pytest.mark.parametrize("user", [None, "root"])
async def test_an_attacker_finds_no_secret_of_the_machine(engine: Engine, state: Path, user: str | None) -> None:
    security = Security() if user is None else Security(cap_add=["ALL"], seccomp="unconfined", no_new_privileges=False)
    found = await walk(engine, user=user, security=security)
    assert "/usr/bin/env" in found
    for path in found:
        name = os.path.basename(path)
        assert not path.startswith(("/etc/ssh/", "/etc/ssl/private", "/etc/sudoers", "/etc/pki/tls/private")), path
        assert not name.startswith(("ssh_host_", "id_rsa", "id_ed25519", "id_ecdsa")), path
        if not path.startswith(("/usr/", "/opt/")):
            assert name not in SECRET_NAMES, path
    # links of the view's own, and nothing else, where the machine keeps its data
    assert {path for path in found if path.startswith(tuple(f"{folder}/" for folder in EMPTY))} <= {
        "/var/run",
        "/var/lock",
    }
    assert not {path for path in found if str(state) in path}


async def test_what_may_be_seen_of_etc_is_readable_by_everybody_on_the_machine(engine: Engine) -> None:
    made_up = {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/mtab"}
    for path in await walk(engine, user="root"):
        if path.startswith("/etc/") and path not in made_up and not os.path.islink(path):
            assert os.stat(path).st_mode & 0o004, path


async def test_no_folder_of_the_machine_above_the_shown_ones_can_be_reached(engine: Engine) -> None:
    script = "ls /usr/.. /usr/../root /opt/../../etc/shadow /etc/ssl/certs/../../shadow /proc/1/root/root"
    done = await engine.run("host", ["sh", "-c", script], user="root")
    assert set(done.text.split()) <= {
        *"bin boot dev etc home lib lib32 lib64 libx32 media mnt opt proc root run sbin srv sys tmp usr var".split(),
        *"/usr/..: /usr/../root: /proc/1/root/root:".split(),
    }


async def test_it_runs_as_nobody_with_no_capability_and_no_way_to_gain_one(engine: Engine) -> None:
    done = await engine.run("host", ["sh", "-c", "id -u; id -g; grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status"])
    lines = done.text.split()
    assert lines[:2] == ["65534", "65534"]
    values = dict(zip(lines[2::2], lines[3::2], strict=True))
    assert {values[name] for name in ("CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:")} == {"0" * 16}
    assert values["NoNewPrivs:"] == "1"
    assert values["Seccomp:"] == "2"


async def test_the_machines_own_interpreter_works(engine: Engine) -> None:
    script = "import ssl, json, socket; print(len(ssl.create_default_context().get_ca_certs()) >= 0, 6 * 7)"
    done = await engine.run("host", ["python3", "-c", script])
    assert done.text == "True 42\n", done.stderr


async def test_what_is_written_stays_in_the_container_and_goes_with_it(engine: Engine, state: Path) -> None:
    name = "/usr/longshore-test-file"
    script = (
        f"echo x > {name} && rm /usr/bin/yes && cat {name} && touch /etc/own /opt/own /var/lib/own && ls /usr/bin/yes"
    )
    done = await engine.run("host", ["sh", "-c", script], user="root")
    assert (done.exit_code, done.text) == (2, "x\n"), done.stderr
    assert not os.path.exists(name)
    assert os.path.exists("/usr/bin/yes")
    assert list((state / "run" / "containers").iterdir()) == []


async def test_a_read_only_view_cannot_be_written_anywhere(engine: Engine) -> None:
    script = "for path in / /usr /opt /etc /etc/ssl/certs /tmp /var/tmp; do touch $path/x && echo $path; done"
    done = await engine.run("host", ["sh", "-c", script], user="root", read_only=True)
    assert done.text == ""
    assert done.stderr.count(b"Read-only file system") == 7, done.stderr


async def test_its_names_are_its_own(engine: Engine) -> None:
    script = "cat /etc/hostname; hostname; getent hosts inner"
    done = await engine.run("host", ["sh", "-c", script], hostname="inner")
    assert done.text.split()[:3] == ["inner", "inner", "127.0.1.1"]


async def test_there_is_no_network_but_loopback(engine: Engine) -> None:
    script = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); print(sorted(n for _, n in socket.if_nameindex()))"
    )
    done = await engine.run("host", ["python3", "-c", script])
    assert done.text == "['lo']\n", done.stderr


async def test_with_the_hosts_network_it_has_the_hosts_resolver(engine: Engine) -> None:
    done = await engine.run("host", ["cat", "/etc/resolv.conf"], network="host")
    assert done.stdout == Path("/etc/resolv.conf").read_bytes()


async def test_a_shown_folder_is_seen_at_its_own_path_and_cannot_be_written(engine: Engine, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    shown.mkdir()
    (shown / "file").write_text("hello\n")
    script = f"cat {shown}/file; echo x > {shown}/file; ls {tmp_path}"
    done = await engine.run("host", ["sh", "-c", script], user="root", show=[str(shown)])
    assert done.text.split() == ["hello", "shown"]
    assert (shown / "file").read_text() == "hello\n"


async def test_a_shown_folder_that_holds_the_store_does_not_show_it(engine: Engine, state: Path) -> None:
    script = f"ls -R {state}/run {state}/lib; ls {state}; echo x > {state}/run/x"
    done = await engine.run("host", ["sh", "-c", script], user="root", show=[str(state)])
    assert done.text.split() == [f"{state}/lib:", f"{state}/run:", "lib", "run"], done.text


async def test_host_full_shows_the_machine_but_not_the_store(engine: Engine, state: Path) -> None:
    script = f"id -u; ls {state}; test -e /etc/shadow && echo shadow; ls /run/longshore /var/lib/longshore; touch /own"
    done = await engine.run("host:full", ["sh", "-c", script])
    assert done.text.split() == ["0", "shadow"], (done.stdout, done.stderr)
    assert not os.path.exists("/own")


async def test_nothing_brings_the_store_back_in_host_full(engine: Engine, state: Path) -> None:
    script = f"mkdir -p {state}/run && ls -A {state}/run; ls -A {state}; rm -rf {state}; mkdir {state} && ls -A {state}"
    done = await engine.run("host:full", ["sh", "-c", script])
    assert done.text.split() == ["run"] or done.text == "", done.text


async def test_two_containers_do_not_see_each_others_files(engine: Engine) -> None:
    first = await engine.launch("first", root="host", args=["sleep", "1000"])
    second = await engine.launch("second", root="host", args=["sleep", "1000"])
    await (await first.exec(["sh", "-c", "echo x > /tmp/mark"])).wait()
    seen = await second.exec(["ls", "-A", "/tmp"])
    out, _ = await seen.communicate()
    assert out == b""
    await first.delete(force=True)
    await second.delete(force=True)


async def test_setuid_programs_gain_nothing(engine: Engine) -> None:
    # a copy of id that belongs to root and is setuid, run by nobody
    script = "cp /usr/bin/id /tmp/id && chmod 4755 /tmp/id && setpriv --reuid 65534 --clear-groups /tmp/id -u"
    done = await engine.run("host", ["sh", "-c", script], user="root")
    assert done.text == "65534\n", done.stderr


async def test_masked_paths_show_nothing_and_read_only_ones_cannot_be_written(engine: Engine) -> None:
    script = (
        "cat /proc/kcore /proc/keys | wc -c; ls -A /sys/firmware /proc/acpi; echo 1 > /proc/sys/kernel/panic; echo $?"
    )
    done = await engine.run("host", ["sh", "-c", script], user="root")
    lines = done.text.split()
    assert lines[0] == "0"
    assert lines[-1] != "0"
    assert set(lines[1:-1]) <= {"/sys/firmware:", "/proc/acpi:"}


async def test_devices_of_the_machine_cannot_be_made(engine: Engine) -> None:
    script = "mknod /tmp/disk b 254 0 && cat /tmp/disk; mknod /tmp/mem c 1 1 && cat /tmp/mem; ls /dev"
    done = await engine.run("host", ["sh", "-c", script], user="root", security=Security(cap_add=["MKNOD"]))
    assert not {"vda", "sda", "kvm", "mem", "kmsg", "fuse"} & set(done.text.split())
    assert b"denied" in done.stderr or b"not permitted" in done.stderr


async def test_a_user_namespace_makes_root_a_nobody_outside(engine: Engine) -> None:
    security = Security(userns=(0, 100_000, 65536))
    done = await engine.run("host", ["sh", "-c", "id -u; cat /proc/self/uid_map"], user="root", security=security)
    assert done.text.split() == ["0", "0", "100000", "65536"], done.stderr


async def test_a_store_cannot_be_mounted(engine: Engine, state: Path) -> None:
    with pytest.raises(InvalidSpec) as error:
        await engine.run("host", ["true"], mounts=[Mount(source=str(state / "run"), target="/x")])
    assert error.value.field == "mounts[0].source"


@pytest.mark.parametrize("runtime", ["crun", "runc"])
@pytest.mark.parametrize("options", [[], ["--userns", "0:100000:65536"]], ids=["plain", "userns"])
def test_what_is_mounted_below_a_shown_folder_is_seen_in_it(state: Path, runtime: str, options: list[str]) -> None:
    inner = 'mount -t tmpfs tmpfs /usr/share/doc && echo seen >/usr/share/doc/mark && exec "$0" -m longshore.cli "$@"'
    words = ["run", *options, "host", "--", "sh", "-c", "cat /usr/share/doc/mark; ls /usr/bin | head -1"]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", inner, sys.executable, *words],
        env=os.environ | {"LONGSHORE_ROOT": str(state), "LONGSHORE_RUNTIME": runtime},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[0] == "seen"
    assert len(done.stdout.split()) > 1
