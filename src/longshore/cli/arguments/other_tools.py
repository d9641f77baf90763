"""Options that other container tools have and longshore has not: the next step for whoever types them from habit."""

from __future__ import annotations

_NETWORKS = "there are no networks yet: with `--network host` it listens on this machine's own ports"
_DEVICES = "devices cannot be given yet; for trusted code, --spec takes an OCI specification that lists them"
_NOT_IMAGES = "there are no images yet: ROOT is host, host:full, rootfs:DIR or a bundle"
_DAEMON = "nobody is there to do it: have your init system run `longshore run`"

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
    "--entrypoint": "there is none: what follows ROOT is the whole command",
    "--shm-size": "use --tmpfs /dev/shm:size=64m",
    "--privileged": "give what it needs: --cap-add ALL --security-opt seccomp=unconfined"
    " --security-opt no-new-privileges=false",
    "--pull": _NOT_IMAGES,
    "--platform": _NOT_IMAGES,
    "--cidfile": "the id is what you give with --name; without it, `run -d` and `create` print it",
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
    "--log-driver": "there is one log, which `longshore logs` reads; --log-size bounds it",
    "--log-opt": "there is one log, which `longshore logs` reads; --log-size bounds it",
    "--rootfs": "write it as ROOT: rootfs:DIR",
    "--bundle": "write the bundle as ROOT: ./DIR",
}
