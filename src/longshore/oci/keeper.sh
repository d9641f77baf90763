#!/bin/sh
# The keeper of one lease: what ends the containers of an owner that died. It costs two milliseconds to start,
# a megabyte to have, and nothing while it waits. docs/internals.md, "the lease", says why it is a process.
#
#   keeper.sh LEASE-DIRECTORY CGROUP STATE-DIRECTORY PYTHON PYTHONPATH
#
# Standard input is a pipe whose only writer is the owner: its end is the owner's end, however it came. The keeper is a
# child of the process that is begun, which ends at once: so it is no child of the owner, which may kill its own
# children before it dies. It writes its pid to standard output when it is at its place. PYTHON may be empty.
trap '' HUP INT QUIT TERM PIPE
lease=$1 cgroup=$2 state=$3 python=$4 pythonpath=$5

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
    for _ in 1 2 3 4 5 6 7 8 9 10; do
      is_dead "$1" && break
      sleep 0.01
    done
    echo FROZEN >"$freezer"
  fi
}

# Whether a process has ended: also if its parent, an init that waits for nobody, leaves it a zombie.
is_dead() {
  read -r stat <"/proc/$1/stat" || return 0
  case ${stat##*) } in [ZX]*) return 0 ;; *) return 1 ;; esac
}

# The helpers that have the lease's lock: by the file itself, since its path is another through a symbolic link.
holders() {
  find /proc/[0-9]*/fd -lname '*/lease.lock*' 9>&- | while read -r link; do
    [ "$link" -ef "$lease/lease.lock" ] || continue
    holder=${link#/proc/}
    holder=${holder%%/*}
    [ "$holder" = "$self" ] || echo "$holder"
  done 9>&-
}

# An exec whose runtime lives, but whose pid nobody has written down yet: the child of a runtime that has the lock.
kill_unwritten() {
  holders | while read -r holder; do
    is_stopped "$holder" && kill -KILL "$holder"  # it would never come to its end
    tr '\0' ' ' <"/proc/$holder/cmdline" | grep -q -- ' exec --pid-file ' || continue
    children=$(cat "/proc/$holder/task/"*/children)
    for child in ${children:-$holder}; do kill -KILL "$child"; done  # without one it only waits for streams
  done 9>&-
}

is_stopped() {
  read -r stat <"/proc/$1/stat" || return 1
  case ${stat##*) } in T*) return 0 ;; *) return 1 ;; esac
}

# Helpers that do not end, though all that they made is dead: a runtime that hangs. leases.py has the same limit.
kill_holders() {
  holders | while read -r holder; do kill -KILL "$holder"; done 9>&-
}

keep() {
  # The lock of owner and keeper, inherited under any number, must outlive the use of this one below.
  if [ -e /proc/self/fd/9 ]; then exec 8>&9 9>&-; fi
  read -r self _ </proc/self/stat
  echo "$self"
  exec >/dev/null 2>&1

  while read -r _; do :; done

  # The owner's own lock tells whether it is dead: a moment later than the pipe. A living owner that has closed the pipe
  # has done without this keeper, which came to its place too late.
  waited=0
  while [ -e "$lease/alive.lock" ] && ! flock -n "$lease/alive.lock" true; do
    waited=$((waited + 1))
    [ $waited -gt 500 ] && exit
    sleep 0.01
  done

  # Every runtime process of the lease has a shared lock on the file: until the last has ended, a container may
  # still come into being.
  exec 9>>"$lease/lease.lock"
  turns=0
  until kill_all; flock -n 9; do
    kill_unwritten
    turns=$((turns + 1))
    if [ $turns -gt 1000 ]; then  # 30 seconds and more: what still has the lock hangs
      kill_holders
      [ $turns -gt 1100 ] && break
    fi
    sleep 0.02
  done
  kill_all

  # The records, events and files of what was killed: by longshore itself, while we hold the lease's lock. It takes out
  # of `owned` what it has closed. A lease with something in there is left to whoever opens the store next.
  if [ -n "$python" ] && ! rmdir "$lease/owned"; then
    PYTHONPATH=$pythonpath "$python" -m longshore.engine.keeper_main "$state" "${lease##*/}" 9>&- </dev/null
  fi
  for top in "/sys/fs/cgroup$cgroup" /sys/fs/cgroup/*"$cgroup"; do
    [ -d "$top" ] && find "$top" -depth -type d -exec rmdir {} +
  done
  if rmdir "$lease/owned" || [ ! -e "$lease/owned" ]; then rm -rf "$lease"; fi
}

for spare in 3 4; do [ -e "/proc/$$/fd/$spare" ] || break; done
eval "exec $spare<&0"  # what runs in the background is given no standard input
eval "keep <&$spare $spare<&- &"
