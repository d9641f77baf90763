#!/bin/sh
# The keeper of one lease: what ends the containers of an owner that died. It costs half a millisecond to start,
# a megabyte to have, and nothing while it waits. docs/architecture.md, "the lease", says why it is a process.
#
#   keeper.sh LEASE-DIRECTORY CGROUP STATE-DIRECTORY PYTHON PYTHONPATH
#
# Standard input is a pipe whose only writer is the owner: its end is the owner's end, however it came.
trap '' HUP INT QUIT TERM PIPE
lease=$1 cgroup=$2 state=$3 python=$4 pythonpath=$5

# The lock of owner and keeper, inherited under any number, must outlive the use of this one below.
if [ -e "/proc/$$/fd/9" ]; then exec 8>&9 9>&-; fi

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
  # execs in containers that outlive their owner: in the cgroup and, once known, of the start time that was noted
  for entry in "$lease"/execs/*; do
    [ -f "$entry" ] || continue
    pidfile='' within='' start='' pid=''
    { read -r pidfile; read -r within; read -r start; } <"$entry"
    read -r pid <"$pidfile"
    [ -n "$pid" ] && grep -qF ":$within" "/proc/$pid/cgroup" || continue
    read -r stat <"/proc/$pid/stat"
    set -- ${stat##*) }
    [ -z "$start" ] || [ "$start" = "${20}" ] || continue
    kill_exec "$pid" "$within" "$4"
  done
}

# An exec ($1, in a container's cgroup $2): in version 2 with all that is in the cgroup of its own, else with its process
# group and its session ($3; crun's exec does not lead it). Frozen in version 1, it dies only when thawed; then it is
# frozen again.
kill_exec() {
  own=''
  while IFS=: read -r _ _ path; do
    case $path in "$2"/longshore-exec.*) path=${path#"$2"/}; own=/sys/fs/cgroup$2/${path%%/*} ;; esac
  done <"/proc/$1/cgroup"
  if [ -n "$own" ] && echo 1 >"$own/cgroup.kill"; then
    for _ in 1 2 3 4 5 6 7 8 9 10; do  # what was killed takes a moment; at last the container's end removes it
      rmdir "$own" && break
      sleep 0.01
    done
    return
  fi
  kill -KILL "-$1" "$1"  # no `--`: dash does not know it here
  [ -z "$own" ] || kill -KILL $(cat "$own/cgroup.procs")  # before Linux 5.14
  for procs in "/sys/fs/cgroup$2/cgroup.procs" "/sys/fs/cgroup/pids$2/cgroup.procs"; do
    [ -f "$procs" ] || continue
    while read -r member; do
      read -r stat <"/proc/$member/stat" || continue
      session=$(set -- ${stat##*) }; echo "$4")
      [ "$session" = "$3" ] && kill -KILL "$member"
    done <"$procs"
  done
  freezer=/sys/fs/cgroup/freezer$2/freezer.state
  if [ -f "$freezer" ] && grep -q FROZEN "$freezer"; then
    echo THAWED >"$freezer"
    while kill -0 "$1"; do sleep 0.005; done
    echo FROZEN >"$freezer"
  fi
}

# An exec whose runtime lives, but whose pid nobody has written down yet: the child of a runtime that has the lock.
kill_unwritten() {
  find /proc/[0-9]*/fd -lname "$lease/lease.lock" | while read -r link; do
    holder=${link#/proc/}
    holder=${holder%%/*}
    tr '\0' ' ' <"/proc/$holder/cmdline" | grep -q -- ' exec --pid-file ' || continue
    children=$(cat "/proc/$holder/task/"*/children)
    for child in ${children:-$holder}; do kill -KILL "$child"; done  # without one it only waits for streams
  done
}

# Helpers that do not end, though all that they made is dead: a runtime that hangs. leases.py has the same limit.
kill_holders() {
  find /proc/[0-9]*/fd -lname "$lease/lease.lock" 9>&- | while read -r link; do
    holder=${link#/proc/}
    holder=${holder%%/*}
    [ "$holder" = $$ ] || kill -KILL "$holder"
  done 9>&-
}

# Every runtime process of the lease has a shared lock on the file: until the last has ended, a container may
# still come into being.
exec 9>>"$lease/lease.lock"
turns=0
until kill_all 2>/dev/null; flock -n 9; do
  kill_unwritten 2>/dev/null
  turns=$((turns + 1))
  if [ $turns -gt 1000 ]; then  # 30 seconds and more: what still has the lock hangs
    kill_holders 2>/dev/null
    [ $turns -gt 1100 ] && break
  fi
  sleep 0.02
done
kill_all 2>/dev/null

# The records, events and files of what was killed: by longshore itself, while we hold the lease's lock.
if [ -n "$(ls -A "$lease/owned" 2>/dev/null)" ]; then
  PYTHONPATH=$pythonpath "$python" -m longshore.lease "$state" "${lease##*/}" 9>&- </dev/null >/dev/null 2>&1
fi
for top in "/sys/fs/cgroup$cgroup" /sys/fs/cgroup/*"$cgroup"; do
  [ -d "$top" ] && find "$top" -depth -type d -exec rmdir {} + 2>/dev/null
done
rm -rf "$lease"
