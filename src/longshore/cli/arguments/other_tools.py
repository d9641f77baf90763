"""Options that other container tools have and longshore has not: the next step for whoever types them from habit."""

from __future__ import annotations

_NETWORKS = "use `--network host`, which has this machine's own ports: there are no networks yet"
_DEVICES = "list devices in an OCI specification (--spec), for trusted code only: there is no option for them yet"
_DAEMON = "run `longshore run` from your init system: longshore has no daemon"

OPTIONS = {
    "--publish": _NETWORKS,
    "-p": _NETWORKS,
    "--publish-all": _NETWORKS,
    "-P": _NETWORKS,
    "--expose": _NETWORKS,
    "--link": _NETWORKS,
    "--ip": _NETWORKS,
    "--network-alias": _NETWORKS,
    "--add-host": "mount a hosts file of your own: -v ./hosts:/etc/hosts:ro",
    "--dns": "mount a resolv.conf of your own: -v ./resolv.conf:/etc/resolv.conf:ro",
    "--gpus": _DEVICES,
    "--device": _DEVICES,
    "--shm-size": "use --tmpfs /dev/shm:size=64m",
    "--privileged": "give what it needs: --cap-add ALL --security-opt seccomp=unconfined"
    " --security-opt no-new-privileges=false",
    "--cidfile": "use --name, or the id that `run -d` and `create` print",
    "--restart": _DAEMON,
    "--health-cmd": _DAEMON,
    "--stop-timeout": "give it to `stop`: `longshore stop -t 60 NAME`",
    "--cpu-shares": "use --cpu-weight: 1 to 10000, 100 is usual",
    "-c": "use --cpu-weight: 1 to 10000, 100 is usual",
    "--cpu-quota": "use --cpus",
    "--cpu-period": "use --cpus",
    "--group-add": "give groups with --spec: process.user.additionalGids",
    "--sysctl": "give it with --spec: linux.sysctl",
    "--pid": "give namespaces with --spec: linux.namespaces",
    "--ipc": "give namespaces with --spec: linux.namespaces",
    "--uts": "give namespaces with --spec: linux.namespaces",
    "--userns-remap": "use --userns INSIDE:OUTSIDE:COUNT",
    "--volumes-from": "give the same -v again",
    "--log-driver": "use `longshore logs` to read the log, and --log-size to limit it",
    "--log-opt": "use `longshore logs` to read the log, and --log-size to limit it",
    "--rootfs": "write it as ROOT: rootfs:DIR",
    "--bundle": "write the bundle as ROOT: ./DIR",
}
