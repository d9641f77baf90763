#!/bin/sh
# The keeper of one lease: what ends the containers of an owner that died. It costs half a millisecond to start,
# a megabyte to have, and nothing while it waits. docs/architecture.md, "the lease", says why it is a process.
#
#   keeper.sh LEASE-DIRECTORY CGROUP STATE-DIRECTORY PYTHON PYTHONPATH
#
# Standard input is a pipe whose only writer is the owner: its end is the owner's end, however it came.
trap '' HUP INT QUIT TERM PIPE
lease=$1 cgroup=$2 state=$3 python=$4 pythonpath=$5

while read -r _; do :; done

# In a cgroup v1 hierarchy a frozen process dies only when it is thawed; in v2 cgroup.kill does it all.
kill_all() {
  for top in "/sys/fs/cgroup$cgroup" /sys/fs/cgroup/*"$cgroup"; do
    [ -d "$top" ] || continue
    [ -w "$top/cgroup.kill" ] && echo 1 >"$top/cgroup.kill"
    pids=$(find "$top" -name cgroup.procs -exec cat {} + 2>/dev/null)
    [ -n "$pids" ] && kill -KILL $pids 2>/dev/null
    find "$top" -name freezer.state 2>/dev/null | while read -r file; do echo THAWED >"$file"; done
  done
  # execs in containers that outlive their owner: their own pid, in the cgroup that it was started in
  for entry in "$lease"/execs/*; do
    [ -f "$entry" ] || continue
    { read -r pidfile && read -r within; } <"$entry"
    read -r pid <"$pidfile" || [ -n "$pid" ] || continue
    grep -qF ":$within" "/proc/$pid/cgroup" || continue
    kill -KILL -- "-$pid" "$pid"
  done
}

# Every runtime process of the lease has a shared lock on the file: until the last has ended, a container may
# still come into being.
exec 9>>"$lease/lease.lock"
until kill_all 2>/dev/null; flock -n 9; do sleep 0.02; done
kill_all 2>/dev/null

# The records, events and files of what was killed: by longshore itself, while we hold the lease's lock.
if [ -n "$(ls -A "$lease/owned" 2>/dev/null)" ]; then
  PYTHONPATH=$pythonpath "$python" -m longshore.lease "$state" "${lease##*/}" 9>&- </dev/null >/dev/null 2>&1
fi
for top in "/sys/fs/cgroup$cgroup" /sys/fs/cgroup/*"$cgroup"; do
  [ -d "$top" ] && find "$top" -depth -type d -exec rmdir {} + 2>/dev/null
done
rm -rf "$lease"
